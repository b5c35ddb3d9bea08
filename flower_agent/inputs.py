"""What the VM was given: context files, ``one_env`` and the image builder's config.yaml.

one-contextd writes context.sh.local, .online and .network, one after another with equal content
(OpenNebula one-apps, src/usr/sbin/one-contextd); the newest stage counts. The files are data and
are never sourced.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import yaml

from . import context, files
from .errors import AgentError, Finding
from .onegate import Access
from .paths import Paths
from .secret import Secret

STAGES = ("context.sh.network", "context.sh.online", "context.sh.local")
MAX_CONFIG_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Inputs:
    """One reading of all inputs."""

    variables: Mapping[str, str] | None
    """The context; None when it is absent or cannot be parsed."""

    config: Mapping[str, str]
    """config.yaml: lower-case names and their values as text."""

    findings: tuple[Finding, ...]

    access: Access | None
    """OneGate's address and the VM's token; None when any part is missing."""

    vmid: str | None


def stamp(paths: Paths) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes when any input changes: name, inode, mtime and size of each file."""
    rows = []
    for path in _sources(paths):
        try:
            seen = path.stat()
        except OSError:
            continue  # absent: its coming changes the stamp
        rows.append((str(path), seen.st_ino, seen.st_mtime_ns, seen.st_size))
    return tuple(rows)


def read(paths: Paths, *, context_file: pathlib.Path | None = None) -> Inputs:
    """Read everything; what is wrong becomes a finding. `context_file` replaces the context."""
    findings: list[Finding] = []
    variables: Mapping[str, str] | None = None
    env: Mapping[str, str] = {}
    config: Mapping[str, str] = {}
    try:
        variables = _read_context(paths, context_file)
    except AgentError as error:
        findings.append(error.finding)
    try:
        if context_file is None:
            data = files.read(paths.context / "one_env", context.SIZE_LIMIT_BYTES)
            env = context.parse_one_env(data) if data else {}
        config = _read_config(paths.config)
    except AgentError as error:
        findings.append(error.finding)
    found = {**(variables or {}), **env}
    vmid, endpoint = found.get("VMID", ""), found.get("ONEGATE_ENDPOINT", "")
    token = env.get("TOKENTXT", "")
    whole = vmid and endpoint and token
    access = Access(endpoint, vmid, Secret(token)) if whole else None
    return Inputs(variables, config, tuple(findings), access, vmid or None)


def _sources(paths: Paths) -> tuple[pathlib.Path, ...]:
    return (*(paths.context / n for n in STAGES), paths.context / "one_env", paths.config)


def _read_context(paths: Paths, context_file: pathlib.Path | None) -> Mapping[str, str]:
    candidates = [context_file] if context_file else [paths.context / stage for stage in STAGES]
    for path in candidates:
        data = files.read(path, context.SIZE_LIMIT_BYTES + 1)
        if data is not None:
            return context.parse(data)
    where = context_file or paths.context / "context.sh.{network,online,local}"
    raise AgentError("context.missing", f"there is no context at {where}", retryable=True)


def _read_config(path: pathlib.Path) -> Mapping[str, str]:
    data = files.read(path, MAX_CONFIG_BYTES)
    try:
        found = yaml.safe_load(data) if data else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise AgentError("config.invalid", f"{path} is not YAML{line}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise AgentError("config.invalid", f"{path} is not a mapping of names to values")
    return {str(name): _as_text(path, str(name), value) for name, value in found.items()}


def _as_text(path: pathlib.Path, name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):  # what YAML makes of yes, no, on, off
        return "YES" if value else "NO"
    if isinstance(value, str | int | float):
        return str(value)
    raise AgentError("config.invalid", f"{path}: {name} is a {type(value).__name__}, want text")
