"""What running apps leave on this VM: how their processes ended, and the directories they wrote.

A ServerApp's working directory is taken away from later apps as soon as its process is over, and
kept as ``runs/RUN/outputs``; a ClientApp's is removed once its run has been quiet for a while. Both
are done by Flower's user in a one-shot container (`launcher.trees`): the agent has no capability,
so a directory that an app closed is closed to the agent, too.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import re
import stat
from collections.abc import Callable, Mapping, Sequence

import structlog

from flower_agent import files
from flower_agent.errands import Errands
from flower_agent.errors import AgentError, Finding, warning
from flower_agent.paths import Paths
from flower_agent.wanted import flower
from flower_agent.wanted.containers import FLOWER_UID

from . import app_ends
from .app_ends import AppEnd

ENDS = "ends"
ENDS_MAX = 1000
IDLE_S = 600.0
"""So long no ClientApp of a run has run on a node before its directory goes."""

RETRY_S = 60.0
CODE = "run.outputs"
_ERRAND = "app-runs"
_MAX_BYTES = 4 * 1024 * 1024
_NAME = re.compile(r"[0-9]{1,20}|process-[0-9]{1,12}-[0-9]{1,10}", re.ASCII)

OneShot = Callable[[str, Sequence[str], Mapping[str, tuple[str, bool]]], bytes]
"""Runs a command in an image, with mounts; returns what it printed."""

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class AppHost:
    """The container in which apps run."""

    image: str
    started_at: datetime.datetime
    keeps: bool
    """What an app wrote is kept: ServerApps run there."""


class AppRuns:
    """The apps' processes and directories of one VM."""

    def __init__(
        self, paths: Paths, errands: Errands, one_shot: OneShot, *, scale: float = 1.0
    ) -> None:
        self._paths = paths
        self._errands = errands
        self._one_shot = one_shot
        self._scale = scale
        self._seen: int | None = None
        self._ends: tuple[AppEnd, ...] = ()
        self._not_before = float("-inf")
        self.archived = 0
        """Directories that were taken away since the start."""

        self.trouble: AgentError | None = None
        """Why the last container for outputs failed."""

    def changed(self) -> bool:
        """Return whether an app began or ended since the last `ends`; costs one look."""
        return self._stamp() != self._seen

    def ends(self) -> tuple[AppEnd, ...]:
        """Return the processes of apps, as their launchers wrote them down."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen, self._ends = stamp, tuple(self._read())
        return self._ends

    def unknown_launches(self) -> str:
        """Return why runs are not known where apps start; empty where they are."""
        data = _read(self._paths.live_runs / "launches.json")
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(data or b"{}").get("unknown") or "")[:300]
        return ""

    def findings(self) -> list[Finding]:
        """Return what stands in the way of keeping what apps leave."""
        unknown = self.unknown_launches()
        found = [warning("run.launch_unknown", unknown)] if unknown else []
        if self.trouble is not None:
            wrong = self.trouble.finding
            found.append(warning(wrong.code, wrong.message, wrong.hint))
        return found

    def live_bytes(self) -> int:
        """Return what running apps have written, as their launchers last measured it."""
        data = _read(self._paths.live_runs / "usage.json")
        with contextlib.suppress(ValueError, AttributeError, TypeError, OverflowError):
            return max(int(json.loads(data or b"{}").get("bytes") or 0), 0) if self._live() else 0
        return 0

    def settle(self, host: AppHost, now: datetime.datetime, monotonic: float, limit: int) -> None:
        """Take away what runs left that are over, one at a time, beside the loop."""
        done = self._errands.take(_ERRAND)
        if done is not None:
            self.trouble = done.error
            if done.error is not None:
                self._not_before = monotonic + RETRY_S * self._scale
                log.warning("run.outputs_failed", reason=str(done.error))
            else:
                self.archived += 1
        if monotonic < self._not_before or self._errands.running(_ERRAND):
            return
        idle_s = 0.0 if host.keeps else IDLE_S * self._scale
        name = next((n for n in self._live() if self._over(n, host, now, idle_s)), None)
        if name is not None:
            act = self._archive if host.keeps else self._remove_live
            self._errands.start(_ERRAND, functools.partial(act, host.image, name, limit))

    def remove(self, image: str | None, name: str) -> None:
        """Remove a run's outputs, as their owner. Raises AgentError.

        Without an image no app runs on this VM, so that none left outputs here.
        """
        if image is not None and (self._paths.runs / name / "outputs").exists():
            self._tree(image, "remove", name)

    def _live(self) -> tuple[str, ...]:
        """Return the names of the directories that apps of a run may write to."""
        try:
            with os.scandir(self._paths.live_runs) as found:
                names = [e.name for e in found if _NAME.fullmatch(e.name)]
        except OSError:
            return ()
        return tuple(sorted(names))

    def _over(self, name: str, host: AppHost, now: datetime.datetime, idle_s: float) -> bool:
        """Return whether no process of a run lives, and none ended within `idle_s`.

        A process whose container was started after it is over, though nobody wrote that down.
        """
        started = host.started_at.timestamp()
        mine = [end for end in self.ends() if end.run == name]
        if any(end.ended_at is None and end.began_at >= started for end in mine):
            return False
        if not mine:  # its launcher has not written yet, or was killed before it could
            with contextlib.suppress(OSError):
                seen = (self._paths.live_runs / name).stat(follow_symlinks=False)
                return seen.st_mtime < started
            return False
        last = max(end.ended_at or end.began_at for end in mine)
        return now.timestamp() - last >= idle_s

    def _archive(self, image: str, name: str, limit: int) -> None:
        place = self._paths.runs / name
        files.directory(place, 0o770, group=FLOWER_UID)
        found = self._tree(image, "archive", name, str(limit))
        files.write_atomic(place / "outputs.json", found, 0o600)
        log.info("run.outputs_kept", run=name, bytes=json.loads(found).get("bytes"))

    def _remove_live(self, image: str, name: str, _: int) -> None:
        self._tree(image, "live", name)
        log.info("run.directory_removed", run=name)

    def _tree(self, image: str, *command: str) -> bytes:
        program = ("python", "-I", "-S", f"{flower.LAUNCHER}/trees.py")
        mounts = {
            flower.LAUNCHER: (str(self._paths.launcher), False),
            "/runs": (str(self._paths.runs), True),
        }
        return self._one_shot(image, (*program, *command), mounts)

    def _stamp(self) -> int | None:
        try:
            return (self._paths.live_runs / ENDS).stat(follow_symlinks=False).st_mtime_ns
        except OSError:
            return None

    def _read(self) -> list[AppEnd]:
        found = []
        try:
            with os.scandir(self._paths.live_runs / ENDS) as entries:
                names = [e.path for e in entries if e.name.endswith(".json")][:ENDS_MAX]
        except OSError:
            return []
        for path in names:
            with contextlib.suppress(ValueError):
                found.append(app_ends.parse(_read(pathlib.Path(path)) or b""))
        return found


def _read(path: pathlib.Path) -> bytes | None:
    """Return a file that an app may have put there: only a regular one, and not all of it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return file.read(app_ends.MAX_BYTES)
