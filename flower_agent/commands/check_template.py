"""``flower-agent check --template``: checks the VMs of a template before deployment."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Iterator, Mapping

from flower_agent.commands import check, template_model
from flower_agent.commands.template_model import Guest, TemplateKind
from flower_agent.config import parsing, sources
from flower_agent.config.names import PREFIX
from flower_agent.config.settings import Settings
from flower_agent.config.sources import Inputs
from flower_agent.config.types import Role
from flower_agent.model.errors import (
    AgentError,
    Finding,
    NoSourceError,
    SettingMissingError,
    warning,
)
from flower_agent.onegate import discovery

SUPPLIED = {"FLOWER_SERVER_ADDRESS", "FLOWER_APPIO_ADDRESS", "TLS_CA_CERT"}
"""Without OneGate a VM needs them to find its SuperLink."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """One kind of VM with what it would do."""

    guest: Guest
    settings: Settings | None
    findings: tuple[Finding, ...]


def run(
    template: pathlib.Path,
    config: pathlib.Path | None,
    bases: Collection[tuple[str, pathlib.Path]] = (),
    *,
    as_json: bool,
) -> int:
    """Print every finding; return 0 when all VMs would start, 1 when one would not.

    `config` are the image's defaults, `bases` the VM templates of a service by number. Raises
    AgentError ``template.malformed`` or ``config.invalid``.
    """
    found = template_model.parse(_read(template))
    defaults = sources.read_config(config, required=True) if config else {}
    under = {number: template_model.parse(_read(path)) for number, path in bases}
    rows = [judge(guest, defaults) for guest in template_model.guests(found, under)]
    if found.kind is TemplateKind.VM:
        row = rows[0]
        if as_json:
            print(json.dumps({"schema": 1, **check.judged(row.settings, row.findings)}, indent=1))
        else:
            print("\n".join(check.lines(row.settings, row.findings)))
        return int(check.wrong(row.findings))
    shared = (*template_model.faults(found), *together(rows))
    wrong = check.wrong(shared) or any(check.wrong(row.findings) for row in rows)
    if as_json:
        document = {
            "schema": 1,
            "ok": not wrong,
            "findings": [dataclasses.asdict(f) for f in shared],
            "roles": [_as_json(row) for row in rows],
        }
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(_lines(shared, rows)))
    return int(wrong)


def judge(guest: Guest, defaults: Mapping[str, str]) -> Judged:
    """Return what one kind of VM would do; what is known at deployment only is not missed."""
    later = {name.removeprefix(PREFIX) for name in guest.later}
    told = {name.removeprefix(PREFIX) for name in guest.variables} | {n.upper() for n in defaults}
    if "FLOWER_ROLE" not in told and ("FLOWER_ROLE" in later or not guest.whole):
        awaited = "FLOWER_ROLE" in later
        where = "not known before deployment" if awaited else "not in this file"
        message = f"FLOWER_ROLE is {where}: the rest was not checked"
        hint = "Set it in the template to check the rest." if awaited else "Give --vm-template."
        unknown = warning("template.context", message, hint)
        return Judged(guest, None, (*guest.findings, unknown))
    parsed = parsing.parse(guest.variables, defaults)
    findings = [_awaited(f) if _is_awaited(f, later) else f for f in parsed.findings]
    found = parsed.settings
    if found is not None:
        token = {} if guest.whole or "TOKEN" in guest.variables else {"TOKEN": "YES"}
        read = Inputs({**guest.variables, **token}, defaults, (), None, None)
        deeper = check.deeper(found, read, None, offline=True)
        findings += [f for f in deeper if not (later & SUPPLIED and f.is_a(NoSourceError))]
    return Judged(guest, found, (*guest.findings, *findings))


def together(rows: Collection[Judged]) -> Iterator[Finding]:
    """Yield the contradictions between the roles of a service."""
    links = [row for row in rows if row.settings and row.settings.role is Role.SUPERLINK]
    nodes = [row for row in rows if row.settings and row.settings.role is Role.SUPERNODE]
    if sum(row.guest.count for row in links) > 1:
        names = " and ".join(row.guest.name for row in links)
        yield Finding("discover.ambiguous", f"more than one VM is a SuperLink: role {names}")
    known = all(row.settings for row in rows)
    lost = [row for row in nodes if row.settings and not row.settings.server_address]
    lost = [row for row in lost if "FLOWER_SERVER_ADDRESS" not in row.guest.later]
    if known and not links and lost:
        yield Finding("discover.no_source", f"no role is a SuperLink for {lost[0].guest.name}")
    if not links or links[0].settings is None:
        return
    link = links[0].settings
    for row in nodes:
        if row.settings is not None:
            yield from _between(link, row.settings, row.guest.name)
    count = sum(row.guest.count for row in nodes)
    if known and nodes and count < link.min_clients:
        message = f"FL_MIN_CLIENTS is {link.min_clients}, SuperNodes at first: {count}"
        yield warning("template.role", message, "Raise the role's cardinality.")


def _between(link: Settings, node: Settings, name: str) -> Iterator[Finding]:
    mixed = discovery.mixed_versions(node.version, str(link.version))
    if mixed:
        yield dataclasses.replace(mixed, message=f"role {name}: {mixed.message}")
    if link.tls is not node.tls:
        yield Finding("tls.mismatch", f"TLS is on at one end and off at the other: role {name}")
    both = (link.node_auth, node.node_auth)
    if None not in both and link.node_auth is not node.node_auth:
        message = f"FLOWER_NODE_AUTH differs between the SuperLink and role {name}"
        yield Finding("enrol.mismatch", message)


def _is_awaited(finding: Finding, later: Collection[str]) -> bool:
    return finding.is_a(SettingMissingError) and finding.message.partition(" ")[0] in later


def _awaited(finding: Finding) -> Finding:
    name = finding.message.partition(" ")[0]
    message = f"{name} is not known before deployment: the rest was not checked"
    return warning("template.context", message, "Set it in the template to check the rest.")


def _lines(shared: Collection[Finding], rows: Collection[Judged]) -> Iterator[str]:
    for finding in shared:
        yield f"{finding.severity}: {finding}\n  fix: {finding.hint}"
    for row in rows:
        yield f"role {row.guest.name}, {row.guest.count} VM{'s' if row.guest.count != 1 else ''}:"
        text = "\n".join(check.lines(row.settings, row.findings)) or "not judged"
        yield from (f"  {line}" for line in text.splitlines())


def _as_json(row: Judged) -> dict[str, object]:
    return {
        "name": row.guest.name,
        "count": row.guest.count,
        **check.judged(row.settings, row.findings),
    }


def _read(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(template_model.SIZE_LIMIT + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise AgentError("template.malformed", f"{path} cannot be read: {reason}") from error
