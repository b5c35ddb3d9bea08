"""The input of a VM: context files, ``one_env`` and config.yaml, read again when a file changes.

one-contextd writes context.sh.local, .online and .network, one after another with equal content
(OpenNebula one-apps, src/usr/sbin/one-contextd); the newest stage counts. The files are data and
are never sourced.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import structlog
import yaml

from flower_agent.config import context, parsing
from flower_agent.config.settings import Settings
from flower_agent.model.errors import AgentError, ContextMissingError, Finding, Severity
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.model.secret import Secret
from flower_agent.paths import Paths


@dataclasses.dataclass(frozen=True, slots=True)
class OneGateAccess:
    """Where OneGate is and who asks (head of ``one_env``)."""

    endpoint: str
    vmid: str
    token: Secret


log = structlog.get_logger()

STAGES = ("context.sh.network", "context.sh.online", "context.sh.local")
MAX_CONFIG_BYTES = 1 << 18
HEAD_BYTES = 1 << 14
"""More than the three lines of ``one_env`` that count."""

_YAML = "tag:yaml.org,2002:"
_PLAIN = frozenset(_YAML + kind for kind in ("str", "bool", "int", "float", "timestamp", "value"))


@dataclasses.dataclass(frozen=True, slots=True)
class Inputs:
    """One reading of all inputs."""

    variables: Mapping[str, str] | None
    """The context; None when it is absent or cannot be parsed."""

    config: Mapping[str, str]
    """config.yaml: lower-case names and their values as text."""

    findings: tuple[Finding, ...]

    access: OneGateAccess | None
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


def read(
    paths: Paths,
    *,
    context_file: pathlib.Path | None = None,
    config_file: pathlib.Path | None = None,
) -> Inputs:
    """Read everything; what is wrong becomes a finding.

    `context_file` replaces the context, `config_file` the image builder's defaults.
    """
    findings: list[Finding] = []
    variables: Mapping[str, str] | None = None
    env: Mapping[str, str] = {}
    config: Mapping[str, str] = {}
    try:
        variables = _read_context(paths, context_file)
    except AgentError as error:
        findings.append(error.finding)
    try:
        env = {} if context_file else _read_env(paths.context / "one_env")
    except AgentError as error:
        findings.append(error.finding)
    try:
        config = read_config(config_file or paths.config, required=config_file is not None)
    except AgentError as error:
        findings.append(error.finding)
    found = {**(variables or {}), **env}
    vmid, endpoint = found.get("VMID", ""), found.get("ONEGATE_ENDPOINT", "")
    token = env.get("TOKENTXT", "")
    whole = vmid and endpoint and token
    access = OneGateAccess(endpoint, vmid, Secret(token)) if whole else None
    return Inputs(variables, config, tuple(findings), access, vmid or None)


def read_config(path: pathlib.Path, *, required: bool = False) -> Mapping[str, str]:
    """Return names and values as they are written: 1.30 is a version here, not a number.

    Raises AgentError ``config.invalid``, for an absent file only where it is `required`.
    """
    data = _head(path, MAX_CONFIG_BYTES + 1, "config.invalid")
    if data is None and required:
        raise AgentError("config.invalid", f"there is no file {path}", "Name a file that exists.")
    data = data or b""
    if len(data) > MAX_CONFIG_BYTES:
        raise AgentError("config.invalid", f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        found = yaml.compose(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise AgentError("config.invalid", f"{path} is not YAML{line}") from error
    if found is None or found.tag == _YAML + "null":
        return {}
    if not isinstance(found, yaml.MappingNode):
        raise AgentError("config.invalid", f"{path} is not a mapping of names to values")
    return {
        _as_text(path, "a name", name): _as_text(path, str(name.value), value)
        for name, value in found.value
    }


def _sources(paths: Paths) -> tuple[pathlib.Path, ...]:
    return (*(paths.context / n for n in STAGES), paths.context / "one_env", paths.config)


def _read_context(paths: Paths, context_file: pathlib.Path | None) -> Mapping[str, str]:
    candidates = [context_file] if context_file else [paths.context / stage for stage in STAGES]
    for path in candidates:
        data = _head(path, context.SIZE_LIMIT_BYTES + 1, "context.malformed")
        if data is not None:
            if len(data) > context.SIZE_LIMIT_BYTES:
                limit = f"{context.SIZE_LIMIT_BYTES} bytes"
                raise AgentError("context.too_large", f"{path} is larger than {limit}")
            return context.parse(data)
    if context_file is not None:
        raise ContextMissingError(
            "context.missing", f"there is no file {context_file}", "Name a file that exists."
        )
    where = paths.context / "context.sh.{network,online,local}"
    raise ContextMissingError("context.missing", f"there is no context at {where}", retryable=True)


def _read_env(path: pathlib.Path) -> Mapping[str, str]:
    """Return the values at the head of ``one_env``; the whole context follows there again."""
    return context.parse_one_env(_head(path, HEAD_BYTES, "context.malformed") or b"")


def _as_text(path: pathlib.Path, what: str, node: yaml.Node) -> str:
    if node.tag == _YAML + "null":
        return ""
    if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN:
        return str(node.value)
    kind = str(node.tag).removeprefix(_YAML)
    kind = {"seq": "list", "map": "mapping"}.get(kind, kind)
    raise AgentError("config.invalid", f"{path}: {what} is a {kind}, want text")


def _head(path: pathlib.Path, size_bytes: int, code: str) -> bytes | None:
    """Return the first bytes of a file, None when it is absent. Raises AgentError `code`."""
    try:
        with path.open("rb") as file:
            return file.read(size_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        hint = "Run the command as root." if isinstance(error, PermissionError) else ""
        code = "context.unreadable" if hint else code
        raise AgentError(code, f"{path} cannot be read: {error.strerror}", hint) from error


MISSING_CONTEXT_S = 30.0
"""A context may come late in a boot, or be replaced; after this time its absence is a failure."""


class Intake:
    """The last read input, and the settings in use."""

    def __init__(self, paths: Paths, context_file: pathlib.Path | None = None) -> None:
        self._paths = paths
        self._context_file = context_file
        self._stamp: object = None
        self.inputs: Inputs | None = None
        self.findings: tuple[Finding, ...] = ()
        self._missing_since: float | None = None
        self.good: Settings | None = None
        """The last settings without an error; a bad context does not replace them."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Return the errors of the present inputs."""
        return tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Return the warnings about the inputs."""
        return tuple(f for f in self.findings if f.severity is Severity.WARNING)

    def changed(self) -> bool:
        """Return whether any input file changed since it was read; cheap."""
        return self.inputs is None or stamp(self._paths) != self._stamp

    def reread(self) -> None:
        """Read at the next cycle though no file changed."""
        self._stamp = None

    def read(self) -> bool:
        """Read and judge all inputs; return whether there are new settings to use."""
        self._stamp = stamp(self._paths)
        self.inputs = read(self._paths, context_file=self._context_file)
        before = self.findings
        found_settings, self.findings = judge(self.inputs)
        for found in self.findings:
            if found not in before:
                say = log.error if found.severity is Severity.ERROR else log.warning
                say("context.finding", code=found.code, message=found.message, hint=found.hint)
        if found_settings is None or found_settings == self.good:
            return False
        log.info("context.read" if self.good is None else "context.changed")
        self.good = found_settings
        return True

    def refusal(self, *, now: float, scale: float) -> Unmet | None:
        """Return why the inputs cannot be used, None when they can; `now` is monotonic seconds.

        A context that is not there may be on its way. One that vanished has as long as a first one,
        and counts until then: contextualization replaces it.
        """
        first = self.errors[0] if self.errors else None
        if first is None or not first.is_a(ContextMissingError):
            self._missing_since = None
            return Unmet(Phase.CONTEXT, first, fatal=True) if first else None
        if self._missing_since is None:
            self._missing_since = now
        late = now - self._missing_since > MISSING_CONTEXT_S * scale
        if self.good is not None and not late:
            return None
        return Unmet(Phase.CONTEXT, first, fatal=late)


def judge(read: Inputs) -> tuple[Settings | None, tuple[Finding, ...]]:
    """Return the settings in `read`, None when anything is wrong, and all findings."""
    if read.variables is None:
        return None, read.findings
    parsed = parsing.parse(read.variables, read.config)
    findings = (*read.findings, *parsed.findings)
    wrong = any(f.severity is Severity.ERROR for f in findings)
    return None if wrong else parsed.settings, findings
