"""``flower-agent support``: one archive for a bug report, without secrets.

Every file goes through a `Redactor`; what a program prints, which may be anything, too.

What is secret is said by the table of variables (`settings`), by names that sound so, and by the
looks of a thing: private keys, passwords in URLs, headers. A known value is found in each form in
which programs write it: as it is, in JSON, in a URL, as base64, and decoded from base64, by lines.
"""

import base64
import binascii
import collections
import contextlib
import dataclasses
import datetime
import importlib.metadata
import io
import json
import pathlib
import platform
import re
import subprocess
import sys
import tarfile
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flower_agent import __version__, files, log, record_file
from flower_agent.agent import daemon
from flower_agent.commands import check, doctor, nodes, tls
from flower_agent.commands import status as commands_status
from flower_agent.commands.doctor_checks import Inspector
from flower_agent.config import context, names, sources
from flower_agent.config.settings import SETTINGS
from flower_agent.docker.client import socket_url
from flower_agent.model import foreign_text
from flower_agent.model import status as model_status
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.paths import Paths
from flower_agent.reporting import status_text

HIDDEN = "***"
SHORTEST = 4
"""A shorter value is hidden only next to its name."""

LINE = 16
"""A line of a secret of several lines that is as long is secret itself."""

_IN_URL = re.compile(r"\w://[^/@:\s]*:([^/@\s]+)@")
_SOUNDS = re.compile(r"PASS|SECRET|TOKEN|CRED|PRIVATE|KEY(?!S?_?ID)|AUTH", re.IGNORECASE)
_ROWS = {row.name: row for row in SETTINGS if row.stem is None}
_SECRET_STEMS = tuple(row.stem for row in SETTINGS if row.stem is not None and row.secret)

_LOOKS = (
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
                   re.DOTALL),
        HIDDEN,
    ),
    (re.compile(r"(\w://)[^/@\s\"']+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"((?:authorization|x-onegate-token)\W{1,4})(?:(?:basic|bearer) )?[^\s\"',]+",
                re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"((?:passw(?:or)?d|passphrase|secret|tokentxt|token|api_?key)"
                r"[\"']?\s*[=:]\s*[\"']?)(?!\*\*\*)[^\s\"',;}]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)  # fmt: skip
"""Patterns of secret text, with their replacements."""


@dataclasses.dataclass(frozen=True, slots=True)
class Redactor:
    """Hides known secrets, and text that looks secret."""

    forms: tuple[str, ...]
    """Texts to hide, the longest first."""

    def text(self, text: str) -> str:
        """Return `text` without anything secret."""
        for form in self.forms:
            text = text.replace(form, HIDDEN)
        for pattern, place in _LOOKS:
            text = pattern.sub(place, text)
        return text


def redactor(secrets: Iterable[str]) -> Redactor:
    """Return a pattern for each of `secrets`, in each form."""
    found = {form for secret in secrets for form in _forms(secret.strip())}
    return Redactor(tuple(sorted(found, key=lambda form: (-len(form), form))))


def values(variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the secret values of a context or of ``config.yaml``."""
    for name, value in variables.items():
        if _is_secret(name):
            yield value
        for password in _IN_URL.findall(value):
            yield password
            if (plain := urllib.parse.unquote(password)) != password:
                yield plain


def _is_secret(name: str) -> bool:
    row = _ROWS.get(_bare(name))
    if row is not None:
        return row.secret
    return _bare(name).startswith(_SECRET_STEMS) or bool(_SOUNDS.search(name))


def loose(text: str) -> dict[str, str]:
    """Return names and values of a text that may be damaged: ``NAME='value'``, ``name: value``."""
    rows = re.findall(r"^[ \t]*+(?:export )?(\w++)[ \t]*+[=:]\s*+(\S.*)$", text, re.MULTILINE)
    return {name: value.strip().strip("'\"") for name, value in rows}


def listing(variables: Mapping[str, str]) -> str:
    """Return names and values, one a line; a value is shown where the table says that it may be.

    Any other value shows only its length: it may contain anything, such as a script.
    """
    return "".join(f"{name}={_shown(name, variables[name])}\n" for name in sorted(variables))


def environment(entries: Iterable[str]) -> list[str]:
    """Return a container's environment, ``NAME=value``.

    Values are kept of names that the agent or Flower's images set, and that do not sound secret.
    """
    return [entry if _is_harmless(name) else f"{name}={HIDDEN}" for entry, name in _split(entries)]


def _shown(name: str, value: str) -> str:
    row = _ROWS.get(_bare(name))
    plain = (row is not None and not row.secret and not row.quiet) or name in _HARMLESS
    return names.shown(value) if plain else f"{HIDDEN} ({len(value)} characters)"


_HARMLESS = frozenset({"NETWORK", "REPORT_READY", "TARGET", "VMID", "ONEGATE_ENDPOINT"})


def _split(entries: Iterable[str]) -> Iterator[tuple[str, str]]:
    yield from ((entry, entry.partition("=")[0]) for entry in entries)


def _is_harmless(name: str) -> bool:
    ours = name.startswith(("FLWR_", "NVIDIA_", "PYTHON")) or name in ("PATH", "LANG", "HOME")
    return ours and not _SOUNDS.search(name)


def _bare(name: str) -> str:
    return name.upper().removeprefix(names.PREFIX)


def _forms(secret: str) -> Iterator[str]:
    for text in (secret, *_decoded(secret)):
        if len(text) < SHORTEST:
            continue
        yield text
        yield json.dumps(text)[1:-1]
        yield repr(text)[1:-1]
        yield urllib.parse.quote(text, safe="")
        yield urllib.parse.quote(text)
        yield base64.b64encode(text.encode()).decode()
        lines = text.splitlines()
        yield from (line for line in lines if len(lines) > 1 and len(line) >= LINE)


def _decoded(secret: str) -> Iterator[str]:
    """Yield what `secret` is base64 of, where that is text."""
    try:
        yield base64.b64decode(secret, validate=True).decode("utf-8").strip()
    except (binascii.Error, ValueError):
        return


LOG_LINES = 3000
RECORD_LINES = 1000
TIMEOUT_S = 20
MAX_BYTES = 1 << 22

PROGRAMS = {
    "journal/flower-agent.log": ("/usr/bin/journalctl", "-u", "flower-agent", "-n", "5000"),
    "journal/docker.log": ("/usr/bin/journalctl", "-u", "docker", "-n", "500"),
    "journal/kernel.log": ("/usr/bin/journalctl", "-k", "-n", "500"),
    "system/addresses.txt": ("/usr/sbin/ip", "-brief", "address"),
    "system/clock.txt": ("/usr/bin/timedatectl",),
    "system/disks.txt": ("/usr/bin/df", "-h"),
    "system/listening.txt": ("/usr/bin/ss", "-ltn"),
    "system/nvidia-smi.txt": ("/usr/bin/nvidia-smi",),
    "system/units.txt": ("/usr/bin/systemctl", "is-active", "flower-agent", "docker"),
}
"""Commands of other programs; a missing program is skipped."""

ABOUT = """\
What flower-agent support gathered at {at}, for whoever looks into a failure.

Values of the context that are secret, or may be, are replaced by ***, and so is each place where
they occur. An app may print what nobody can know to be secret: read the logs before you send them.
"""


def run(paths: Paths, name: str, output: pathlib.Path | None) -> int:
    """Write the archive, readable by its owner alone, and print where it is.

    Raises AgentError ``state.unwritable``.
    """
    log.configure("CRITICAL", tty=False)
    now = datetime.datetime.now(datetime.UTC)
    read = sources.read(paths)
    stem = f"flower-agent-support-{read.vmid or 'vm'}-{now:%Y%m%dT%H%M%SZ}"
    target = output or pathlib.Path.cwd() / f"{stem}.tar.gz"
    hide = redactor(_secrets(paths, read))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, text in gather(paths, name, read, now):
            # Whoever reads it has a terminal, too; and no escape may part a secret in two.
            plain = hide.text(foreign_text.printable(hide.text(text)))
            _add(archive, f"{stem}/{file}", plain, now)
    files.write_atomic(target.absolute(), buffer.getvalue(), 0o600)
    print(f"{target} ({len(buffer.getvalue()) // 1024} KiB)\nread it before you send it")
    return 0


def gather(
    paths: Paths, name: str, read: sources.Inputs, now: datetime.datetime
) -> Iterator[tuple[str, str]]:
    """Yield each file's name and text; a failure gives its reason as text."""
    yield "README.txt", ABOUT.format(at=now.isoformat(timespec="seconds"))
    yield "system/versions.txt", _versions()
    yield "context.txt", listing(read.variables or {})
    yield "config.yaml.txt", listing(read.config)
    yield "status.json", _text(paths.status)
    commands: dict[str, Callable[[], int]] = {
        "status.txt": lambda: _status(paths, now),
        "check.txt": lambda: check.run(paths, None, None, as_json=False),
        "doctor.txt": lambda: doctor.run(paths, name, as_json=False),
        "plan.txt": lambda: daemon.plan(paths, name, None),
        "certificates.txt": lambda: tls.show(paths),
        "nodes.txt": lambda: nodes.show(paths, as_json=False),
    }
    for file, command in commands.items():
        yield file, _printed(command)
    yield "state.json", _text(paths.record)
    yield "record.jsonl", _record(paths)
    yield "images.lock", _text(paths.images_lock)
    yield "files.txt", "\n".join([*_listed(paths.state), *_listed(paths.runtime)])
    yield from _docker(name)
    for file, program in PROGRAMS.items():
        if pathlib.Path(program[0]).exists():
            yield file, _ran(program)


def _secrets(paths: Paths, read: sources.Inputs) -> Iterator[str]:
    """Yield every secret that is known on this VM."""
    for variables in (read.variables or {}, read.config):
        yield from values(variables)
    if read.access is not None:
        yield read.access.token.reveal()
    for remembered in _remembered(paths):
        yield remembered.reveal()
    for file in (*paths.tls.rglob("*"), *paths.keys.rglob("*")):
        text = _text(file)
        yield text if "PRIVATE KEY" in text else ""
    # A stage that is not the newest may hold what was secret before; any may be damaged.
    for source in (*(paths.context / stage for stage in sources.STAGES), paths.config):
        yield from values(loose(_text(source)))
        with contextlib.suppress(AgentError):
            yield from values(context.parse(_text(source).encode()))


def _remembered(paths: Paths) -> Iterator[Secret]:
    """Yield the token that this boot's agent remembers."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        yield Secret(str(json.loads(_text(paths.onegate))["token"]))


def _docker(name: str) -> Iterator[tuple[str, str]]:
    engine = Inspector(name or "default", url=socket_url())
    with contextlib.closing(engine):
        try:
            yield "docker/info.json", json.dumps(engine.information(), indent=1)
            for found in (c for c in engine.containers() if c.mine):
                description = engine.describe(found.name)
                config = description.get("Config") or {}
                config["Env"] = environment(config.get("Env") or ())
                yield f"docker/{found.name}.json", json.dumps(description, indent=1)
                yield f"docker/{found.name}.log", engine.logs(found.name, tail=LOG_LINES)
        except AgentError as error:
            yield "docker/error.txt", f"{error}\n"


def _status(paths: Paths, now: datetime.datetime) -> int:
    found, running = commands_status.look(paths)
    print(status_text.render(found, running=running, now=now))
    return model_status.exit_code(found, running=running, now=now)


def _versions() -> str:
    packages = sorted(
        f"{found.metadata['Name']} {found.version}" for found in importlib.metadata.distributions()
    )
    system = {
        "flower-agent": __version__,
        "python": sys.version,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
    }
    lines = [f"{what}: {version}" for what, version in system.items()]
    return "\n".join([*lines, "", *packages, ""])


def _printed(command: Callable[[], int]) -> str:
    """Return what one of our own commands prints, and how it ended."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            ended: Any = command()
        except AgentError as error:
            ended = error
        except Exception as error:  # noqa: BLE001 - a report must come of a broken VM too
            ended = repr(error)
    return f"{printed.getvalue()}-- ended with {ended}\n"


def _ran(program: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            program,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}\n"
    return foreign_text.decoded(done.stdout)


def _record(paths: Paths) -> str:
    """Return the newest entries of the record."""
    try:
        with record_file.reading(paths.audit) as (lines, _):
            newest = collections.deque(lines, maxlen=RECORD_LINES)
    except AgentError as error:
        return f"{error}\n"
    return "".join(held.data.decode("utf-8", "replace") for held in newest)


def _listed(folder: pathlib.Path) -> Iterator[str]:
    """Yield a line for each file: mode, owner, size, date, path; the training data is left out."""
    for path in sorted(folder.rglob("*")):
        if "data" in path.relative_to(folder).parts[:1]:
            continue
        with contextlib.suppress(OSError):
            seen = path.lstat()
            at = datetime.datetime.fromtimestamp(seen.st_mtime, datetime.UTC)
            owner = f"{seen.st_uid}:{seen.st_gid}"
            yield f"{seen.st_mode:06o} {owner:>13} {seen.st_size:>12} {at:%Y-%m-%dT%H:%M:%S} {path}"


def _text(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return f"{error.strerror}\n"


def _add(archive: tarfile.TarFile, name: str, text: str, now: datetime.datetime) -> None:
    data = text.encode("utf-8", "replace")
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o600, int(now.timestamp())
    archive.addfile(member, io.BytesIO(data))
