"""``flower-agent check``: judge a context without a VM and without a touch."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flower_agent.config import parsing
from flower_agent.config import sources as config_sources
from flower_agent.config.settings import Settings
from flower_agent.config.sources import Inputs
from flower_agent.config.types import GATEWAY_PORT, Role
from flower_agent.enrolment import node_key, superlink_trust
from flower_agent.flower import container_spec
from flower_agent.model.address import Address, is_any, is_ip, parse_address
from flower_agent.model.errors import AgentError, Finding, SettingMissingError, Severity
from flower_agent.model.secret import Secret
from flower_agent.paths import Paths
from flower_agent.roles import gateway_places, server_certificate, superexec
from flower_agent.tls import gateway_certificate
from flower_agent.tls.provided import CertificateFiles


def run(
    paths: Paths,
    context: pathlib.Path | None,
    config: pathlib.Path | None = None,
    *,
    as_json: bool,
) -> int:
    """Print every finding; return 0 when a VM would start with it, 1 when not.

    A `config` without a `context` is judged alone: what a CONTEXT must add is not missed.
    """
    if config is not None and context is None:
        return _config(config, as_json=as_json)
    read = config_sources.read(paths, context_file=context, config_file=config)
    found, findings = config_sources.judge(read)
    if found is not None:
        findings = (
            *findings,
            *deeper(found, read, CertificateFiles(paths.certificates), offline=context is not None),
        )
    if as_json:
        print(json.dumps({"schema": 1, **judged(found, findings)}, indent=1))
    else:
        print("\n".join(lines(found, findings)))
    return int(wrong(findings))


def wrong(findings: Collection[Finding]) -> bool:
    """Return whether a VM would not start."""
    return any(f.severity is Severity.ERROR for f in findings)


def lines(found: Settings | None, findings: Collection[Finding]) -> Iterator[str]:
    """Yield findings and what a VM would do, as text."""
    for finding in findings:
        yield f"{finding.severity}: {finding}\n  fix: {finding.hint}"
    if wrong(findings):
        yield "the agent would not start"
    elif found is not None:
        yield f"the agent would start as {found.role} with Flower {found.version}"
        yield f"  images: {', '.join(container_spec.images(found))}"


def judged(found: Settings | None, findings: Collection[Finding]) -> dict[str, Any]:
    """Return findings and what a VM would do, as JSON."""
    starts = found is not None and not wrong(findings)
    return {
        "ok": not wrong(findings),
        "role": str(found.role) if found and starts else None,
        "version": str(found.version) if found and starts else None,
        "images": list(container_spec.images(found)) if found and starts else [],
        "findings": [dataclasses.asdict(f) for f in findings],
    }


def deeper(
    found: Settings, read: Inputs, files: CertificateFiles | None, *, offline: bool
) -> tuple[Finding, ...]:
    """Return findings that need the certificates and the settings of the SuperLink search.

    `files` are a VM's watched certificates; None where there is no VM yet.
    """
    variables = read.variables or {}
    findings: tuple[Finding, ...] = ()
    if found.role is Role.SUPERLINK and found.tls:
        findings = tuple(_certificate(found, variables, files))
    if found.gateway and found.gateway_cert is not None and found.gateway_key is not None:
        findings = (*findings, *_gateway(found, variables, found.gateway_cert, found.gateway_key))
    if found.node_private_key is not None:
        findings = (*findings, *_node_key(found.node_private_key))
    token = read.access is not None or (offline and variables.get("TOKEN", "").upper() == "YES")
    sources = {Role.SUPERNODE: superlink_trust.no_source, Role.SUPEREXEC: superexec.no_source}
    lost = sources[found.role](found) if found.role in sources and not token else None
    return (*findings, lost) if lost else findings


def _config(path: pathlib.Path, *, as_json: bool) -> int:
    try:
        parsed = parsing.parse({}, config_sources.read_config(path, required=True))
        findings = [f for f in parsed.findings if not f.is_a(SettingMissingError)]
    except AgentError as error:
        findings = [error.finding]
    if as_json:
        print(json.dumps({"schema": 1, **judged(None, findings)}, indent=1))
        return int(wrong(findings))
    last = "the file would not be used" if wrong(findings) else "its defaults are valid"
    print("\n".join([f"{f.severity}: {f}\n  fix: {f.hint}" for f in findings] + [last]))
    return int(wrong(findings))


def _certificate(
    settings: Settings, variables: Mapping[str, str], files: CertificateFiles | None
) -> Iterator[Finding]:
    """Yield what is wrong with a given certificate, of the context or in a file."""
    try:
        given = server_certificate.from_context(settings)
        material = given or (files.read(0.0) if files else None)
    except AgentError as error:
        yield error.finding
        return
    if material is None:
        lacks = server_certificate.without_certificate(settings)
        yield from (lacks,) if lacks else ()
        return
    host = _dialled(settings, variables)
    hosts = (host,) if host else ()
    now = datetime.datetime.now(datetime.UTC)
    yield from server_certificate.check(material, settings, hosts, now).findings


def _gateway(
    settings: Settings, variables: Mapping[str, str], certificate: str, key: Secret
) -> tuple[Finding, ...]:
    """Return what is wrong with the gateway's certificate for those who will dial it."""
    where = settings.gateway_address
    host = where.host if where is not None and not is_any(where.host) else ""
    host = host or _dialled(settings, variables) or ""
    reached = gateway_places.host(settings, where or Address(host, GATEWAY_PORT), host)
    now = datetime.datetime.now(datetime.UTC)
    found = gateway_certificate.check_gateway_pair(certificate, key, reached, now)[1]
    if reached:
        return found
    # Only the VM itself knows its address.
    return tuple(each for each in found if each.severity is Severity.ERROR)


def _node_key(private: Secret) -> Iterator[Finding]:
    try:
        node_key.public_half(private.reveal().encode())
    except ValueError as error:
        message = f"FLOWER_NODE_PRIVATE_KEY cannot be used: {error}"
        yield Finding("enrol.key_invalid", message)


def _dialled(found: Settings, variables: Mapping[str, str]) -> str | None:
    """Return the host that nodes will connect to, if the context contains it."""
    if found.public_address:
        return parse_address(found.public_address, 1).host
    wanted = found.address
    if wanted and is_ip(wanted):
        return wanted
    address = variables.get(f"{(wanted or 'ETH0').upper()}_IP", "")
    try:
        return parse_address(address, 1).host if address else None
    except (ValueError, AgentError):
        return None
