"""``flower-agent check``: judge a context without a VM and without a touch."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterator, Mapping

from . import inputs, intake, node_keys, node_trust, server_certificate, superexec
from .address import is_ip, parse_address
from .certificate_files import CertificateFiles
from .errors import AgentError, Finding, Severity
from .inputs import Inputs
from .parsers import Role
from .paths import Paths
from .secret import Secret
from .settings import Settings


def run(paths: Paths, context: pathlib.Path | None, *, as_json: bool) -> int:
    """Print every finding; return 0 when a VM would start with it, 1 when not."""
    read = inputs.read(paths, context_file=context)
    settings, findings = intake.judge(read)
    if settings is not None:
        files = CertificateFiles(paths.certificates)
        findings = (*findings, *_deeper(settings, read, files, offline=context is not None))
    wrong = any(f.severity is Severity.ERROR for f in findings)
    if as_json:
        rows = [dataclasses.asdict(f) for f in findings]
        print(json.dumps({"schema": 1, "ok": not wrong, "findings": rows}, indent=1))
        return int(wrong)
    for found in findings:
        print(f"{found.severity}: {found}\n  fix: {found.hint}")
    if wrong:
        print("it would not start")
    elif settings is not None:
        print(f"it would start as {settings.role} with Flower {settings.version}")
    return int(wrong)


def _deeper(
    settings: Settings, read: Inputs, files: CertificateFiles, *, offline: bool
) -> tuple[Finding, ...]:
    """Return what only certificates and the way to the SuperLink tell."""
    variables = read.variables or {}
    found: tuple[Finding, ...] = ()
    if settings.role is Role.SUPERLINK and settings.tls:
        found = tuple(_certificate(settings, variables, files))
    if settings.node_private_key is not None:
        found = (*found, *_node_key(settings.node_private_key))
    token = read.access is not None or (offline and variables.get("TOKEN", "").upper() == "YES")
    sources = {Role.SUPERNODE: node_trust.no_source, Role.SUPEREXEC: superexec.no_source}
    lost = sources[settings.role](settings) if settings.role in sources and not token else None
    return (*found, lost) if lost else found


def _certificate(
    settings: Settings, variables: Mapping[str, str], files: CertificateFiles
) -> Iterator[Finding]:
    """Yield what is wrong with a given certificate, of the context or in a file."""
    try:
        material = server_certificate.from_context(settings) or files.read(0.0)
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


def _node_key(private: Secret) -> Iterator[Finding]:
    try:
        node_keys.public_half(private.reveal().encode())
    except ValueError as error:
        message = f"FLOWER_NODE_PRIVATE_KEY cannot be used: {error}"
        yield Finding("enrol.key_invalid", message)


def _dialled(settings: Settings, variables: Mapping[str, str]) -> str | None:
    """Return the host that nodes will dial, as far as the context tells."""
    if settings.public_address:
        return parse_address(settings.public_address, 1).host
    wanted = settings.address
    if wanted and is_ip(wanted):
        return wanted
    address = variables.get(f"{(wanted or 'ETH0').upper()}_IP", "")
    try:
        return parse_address(address, 1).host if address else None
    except (ValueError, AgentError):
        return None
