"""``flower-agent support``: one archive for a bug report, without anything secret.

Every file goes through the `redaction`; what a program prints, which may be anything, too.
"""

import contextlib
import datetime
import importlib.metadata
import io
import json
import pathlib
import platform
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from flower_agent import __version__, files, foreign_text, log
from flower_agent.config import context, inputs
from flower_agent.errors import AgentError
from flower_agent.loop import daemon
from flower_agent.paths import Paths
from flower_agent.reporting import screen, status
from flower_agent.secret import Secret
from flower_agent.steps.engine import socket_url

from . import check, doctor, node_commands, redaction, status_command, tls_commands
from .inspector import Inspector

LOG_LINES = 3000
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
"""What other programs tell; one that is not there is left out."""

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
    read = inputs.read(paths)
    stem = f"flower-agent-support-{read.vmid or 'vm'}-{now:%Y%m%dT%H%M%SZ}"
    target = output or pathlib.Path.cwd() / f"{stem}.tar.gz"
    hide = redaction.redactor(_secrets(paths, read))
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
    paths: Paths, name: str, read: inputs.Inputs, now: datetime.datetime
) -> Iterator[tuple[str, str]]:
    """Yield each file's name and text as they are; what cannot be had says why."""
    yield "README.txt", ABOUT.format(at=now.isoformat(timespec="seconds"))
    yield "system/versions.txt", _versions()
    yield "context.txt", redaction.listing(read.variables or {})
    yield "config.yaml.txt", redaction.listing(read.config)
    yield "status.json", _text(paths.status)
    commands: dict[str, Callable[[], int]] = {
        "status.txt": lambda: _status(paths, now),
        "check.txt": lambda: check.run(paths, None, None, as_json=False),
        "doctor.txt": lambda: doctor.run(paths, name, as_json=False),
        "plan.txt": lambda: daemon.plan(paths, name, None),
        "certificates.txt": lambda: tls_commands.show(paths),
        "nodes.txt": lambda: node_commands.show(paths, as_json=False),
    }
    for file, command in commands.items():
        yield file, _printed(command)
    yield "state.json", _text(paths.record)
    yield "images.lock", _text(paths.images_lock)
    yield "files.txt", "\n".join([*_listed(paths.state), *_listed(paths.runtime)])
    yield from _docker(name)
    for file, program in PROGRAMS.items():
        if pathlib.Path(program[0]).exists():
            yield file, _ran(program)


def _secrets(paths: Paths, read: inputs.Inputs) -> Iterator[str]:
    """Yield every secret that is known on this VM."""
    for variables in (read.variables or {}, read.config):
        yield from redaction.values(variables)
    if read.access is not None:
        yield read.access.token.reveal()
    for remembered in _remembered(paths):
        yield remembered.reveal()
    for file in (*paths.tls.rglob("*"), *paths.keys.rglob("*")):
        text = _text(file)
        yield text if "PRIVATE KEY" in text else ""
    # A stage that is not the newest may hold what was secret before; any may be damaged.
    for source in (*(paths.context / stage for stage in inputs.STAGES), paths.config):
        yield from redaction.values(redaction.loose(_text(source)))
        with contextlib.suppress(AgentError):
            yield from redaction.values(context.parse(_text(source).encode()))


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
                config["Env"] = redaction.environment(config.get("Env") or ())
                yield f"docker/{found.name}.json", json.dumps(description, indent=1)
                yield f"docker/{found.name}.log", engine.logs(found.name, tail=LOG_LINES)
        except AgentError as error:
            yield "docker/error.txt", f"{error}\n"


def _status(paths: Paths, now: datetime.datetime) -> int:
    found, running = status_command.look(paths)
    print(screen.render(found, running=running, now=now))
    return status.exit_code(found, running=running, now=now)


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
