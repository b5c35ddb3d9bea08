"""The files of one-apps: status, config, log and motd; the agent keeps them true.

Others write them, too: one-apps' own scripts say "success" when they end. So they are compared in
each cycle. ``/etc/motd`` is a mount of its own inside the unit and can be written, not replaced.

one-apps (appliances/lib/functions.sh): ``status`` has one word, ``STAGE_started``, ``_success`` or
``_failure``; ``config`` is what an operator wants to know; ``motd`` greets with "All set and ready
to serve 8)". There they are written once, when scripts ended. Here they follow the state.
"""

import datetime
import pathlib
from collections.abc import Iterator

import structlog

from flower_agent import files
from flower_agent.model import status
from flower_agent.model.errors import AgentError
from flower_agent.model.status import STOPPED, Status
from flower_agent.paths import Paths

log = structlog.get_logger()

READY = "All set and ready to serve 8)"
STAGES = ("configure", "bootstrap")
_CONTEXT = ("context.", "setting.")
"""Codes of what is wrong with the context, which is one-apps' stage ``configure``."""


def word(found: Status) -> str:
    """Return the content of ``status``."""
    if found.state == "ready":
        return "bootstrap_success"
    if found.state == STOPPED:
        return "install_success"  # what one-apps says before a VM is configured
    judged = found.error.code if found.error else ""
    stage = "configure" if found.role is None or judged.startswith(_CONTEXT) else "bootstrap"
    return f"{stage}_failure" if found.state == "failed" else f"{stage}_started"


def config(found: Status) -> str:
    """Return the content of ``config``; nothing in it is secret."""
    rows = [(name, value) for name, value in _rows(found) if value]
    width = max((len(name) for name, _ in rows), default=0)
    return "[Flower]\n" + "".join(f"{name:{width}} = {value}\n" for name, value in rows)


def motd(found: Status) -> str:
    """Return what greets who logs in."""
    return f"\n  {_title(found)}\n  {_mood(found)}\n\n  More: flower-agent status\n\n"


def log_line(found: Status) -> str:
    """Return a line of a log for this state."""
    return f"{word(found)}: {_mood(found)}"


def _rows(found: Status) -> Iterator[tuple[str, str | None]]:
    yield "role", found.role
    yield "version", found.version
    yield "endpoint", found.endpoint
    yield "tls", None if found.tls is None else "YES" if found.tls else "NO"
    yield "ca_fingerprint", found.ca_fingerprint
    yield "node_id", found.node_id
    yield "partition", found.partition


def _title(found: Status) -> str:
    words = (
        found.role or "",
        found.version or "",
        f"at {found.endpoint}" if found.endpoint else "",
    )
    return " ".join(("Flower", *(each for each in words if each)))


def _mood(found: Status) -> str:
    if found.state == "ready":
        return READY
    phase = f", phase {found.phase}" if found.phase else ""
    return f"{found.state}{phase}{f': {found.error.code}' if found.error else ''}"


LOG_BYTES = 1 << 18
"""A log of this size is emptied."""

MAX_BYTES = 1 << 16


class ApplianceFiles:
    """``/etc/one-appliance/{status,config}``, ``/etc/motd``, ``/var/log/one-appliance/*.log``."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._line = ""
        self._failed = ""

    def keep(self, found: Status, now: datetime.datetime) -> None:
        """Write what differs; a failure is logged once and never stops the loop."""
        folder = self._paths.appliance
        if not folder.is_dir():
            return
        try:
            _replace(folder / "config", config(found), 0o600)
            _greet(self._paths.motd, motd(found))
            self._log(found, now)
            _replace(folder / "status", word(found) + "\n", 0o644)
        except AgentError as error:
            if self._failed != error.finding.message:
                log.warning("appliance.unwritable", reason=error.finding.message)
            self._failed = error.finding.message
            return
        self._failed = ""

    def _log(self, found: Status, now: datetime.datetime) -> None:
        line, folder = log_line(found), self._paths.appliance_logs
        if line == self._line or not folder.is_dir():
            return
        place = folder / f"{line.partition('_')[0]}.log"
        with files.writing(place):
            full = place.exists() and place.stat().st_size > LOG_BYTES
            with place.open("w" if full else "a", encoding="utf-8") as file:
                file.write(f"{status.stamp(now)} {line}\n")
        self._line = line


def _replace(place: pathlib.Path, text: str, mode: int) -> None:
    if files.read(place, MAX_BYTES) != text.encode():
        files.write_atomic(place, text.encode(), mode, durable=False)


def _greet(place: pathlib.Path, text: str) -> None:
    """Write a file in place, where there is one."""
    if files.read(place, MAX_BYTES) in (None, text.encode()):
        return
    with files.writing(place):
        place.write_text(text, encoding="utf-8")
