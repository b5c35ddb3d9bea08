"""Keeps one-apps' files true, where one-apps' directory exists.

Others write them, too: one-apps' own scripts say "success" when they end. So they are compared in
each turn. ``/etc/motd`` is a mount of its own inside the unit and can be written, not replaced.
"""

import datetime
import pathlib

import structlog

from flower_agent import files
from flower_agent.errors import AgentError
from flower_agent.paths import Paths

from . import appliance, status
from .status import Status

LOG_BYTES = 1 << 18
"""A log that has grown to this begins anew."""

MAX_BYTES = 1 << 16

log = structlog.get_logger()


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
            _replace(folder / "config", appliance.config(found), 0o600)
            _greet(self._paths.motd, appliance.motd(found))
            self._log(found, now)
            _replace(folder / "status", appliance.word(found) + "\n", 0o644)
        except AgentError as error:
            if self._failed != error.finding.message:
                log.warning("appliance.unwritable", reason=error.finding.message)
            self._failed = error.finding.message
            return
        self._failed = ""

    def _log(self, found: Status, now: datetime.datetime) -> None:
        line, folder = appliance.line(found), self._paths.appliance_logs
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
