"""The directories of apps on this VM: made before they start, kept or removed when they end.

A ServerApp's working directory is taken away from later apps as soon as its process is over, and
kept as ``runs/RUN/outputs``; a ClientApp's is removed once its run has been quiet for a while. The
agent has no capability, so it may not read or move what Flower's user (49999) makes: it makes the
directories above, which its own group shares, and Flower's user does the rest in a one-shot
container (`launcher.trees`).
"""

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import os
import pathlib
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import structlog

from flower_agent import files, launcher
from flower_agent.background import Background, Threads
from flower_agent.config import flower_versions
from flower_agent.config.settings import Settings
from flower_agent.cycle import AppHost
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.model.errors import AgentError, Finding, warning
from flower_agent.paths import Paths
from flower_agent.runs import outcome
from flower_agent.runs.outcome import AppEnd

log = structlog.get_logger()

_LIMIT_BYTES = 4 << 20


def keep(path: pathlib.Path, data: bytes | None, *, dry: bool) -> dict[str, str]:
    """Write or remove the file at `path`; return the fields of `container_spec.Site` for it.

    A dry look touches nothing. Raises AgentError ``state.unwritable`` or ``state.corrupt``.
    """
    if data is None:
        if not dry and path.exists():
            with files.writing(path):
                path.unlink(missing_ok=True)
        return {}
    if not dry and files.read(path, _LIMIT_BYTES) != data:
        files.directory(path.parent, 0o750, group=FLOWER_UID)
        files.write_atomic(path, data, 0o440, group=FLOWER_UID)
    digest = hashlib.sha256(data).hexdigest()
    return {"environment_file": str(path), "environment_digest": digest}


PROGRAMS = ("program.py", "launcher.py", "trees.py")
SHARE = 4
"""Outputs and caches may each take one part in so many of the disk, where nothing else is set."""

RESERVE_BYTES = 1 << 30
RESERVE_SHARE = 20
RESERVE_INODES = 10_000
RESERVE_INODES_SHARE = 50
"""What apps leave to the SuperLink's database and the system: so much, at most that share."""

_STEP_BYTES = 1 << 20
_SOURCES = pathlib.Path(launcher.__file__).parent
_MAX_BYTES = 1 << 20


def prepare(paths: Paths, settings: Settings) -> None:
    """Make the directories, the programs and their limits; touch nothing that is right already.

    Raises AgentError ``state.unwritable``.
    """
    make = functools.partial(files.directory, durable=False)  # made again where they are missing
    make(paths.runs, 0o710, group=FLOWER_UID)
    # Sticky: what is root's there, apps can neither rename nor remove.
    make(paths.live_runs, 0o1770, group=FLOWER_UID)
    make(paths.live_runs / "ends", 0o1770, group=FLOWER_UID)
    make(paths.caches, 0o770, group=FLOWER_UID)
    make(paths.launcher, 0o755)
    for name in PROGRAMS:
        _keep(paths.launcher / name, (_SOURCES / name).read_bytes())
    _keep(paths.launcher / "limits.json", limits(paths.runs, settings))


def limits(place: pathlib.Path, settings: Settings) -> bytes:
    """Return what apps on the disk of `place` may take, as the launcher reads it."""
    found = os.statvfs(place)
    size = found.f_blocks * found.f_frsize
    share = size // SHARE // _STEP_BYTES * _STEP_BYTES
    document = {
        "outputs_bytes": settings.outputs_limit or share,
        "caches_bytes": settings.cache_limit or share,
        "reserve_bytes": min(RESERVE_BYTES, size // RESERVE_SHARE),
        "reserve_inodes": min(RESERVE_INODES, found.f_files // RESERVE_INODES_SHARE),
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def outputs_limit(paths: Paths, settings: Settings) -> int:
    """Return what the outputs of all runs may take, in bytes."""
    return int(json.loads(limits(paths.runs, settings))["outputs_bytes"])


def _keep(path: pathlib.Path, data: bytes) -> None:
    if files.read(path, _MAX_BYTES) != data:
        files.write_atomic(path, data, 0o644, durable=False)


ENDS = "ends"
ENDS_MAX = 1000
NAMES_MAX = 1000
IDLE_S = 600.0
"""A run's directory stays this long after its last ClientApp, if another run has begun."""

IDLE_ALONE_S = 86_400.0
"""The same while no other run has begun: rounds may be long."""

RETRY_S = 60.0
CODE = "run.outputs"

OneShot = Callable[[str, Sequence[str], Mapping[str, tuple[str, bool]]], bytes]
"""Runs a command in an image, with mounts; returns its output."""


class AppDirectories:
    """The apps' processes and directories of one VM."""

    def __init__(
        self, paths: Paths, threads: Threads, one_shot: OneShot, *, scale: float = 1.0
    ) -> None:
        self._paths = paths
        self._threads = threads
        self._one_shot = one_shot
        self._scale = scale
        self._seen: int | None = None
        self._ends: tuple[AppEnd, ...] = ()
        self._work: dict[str, Background[str, None]] = {}
        """By run, empty for other entries; one at a time, and a failure delays no other."""

        self.archived = 0
        """Number of directories that were archived since the start."""

        self.trouble: AgentError | None = None
        """Why the last container for outputs failed."""

    def changed(self) -> bool:
        """Return whether an app began or ended since the last `ends`; a cheap check."""
        return self._stamp() != self._seen

    def ends(self) -> tuple[AppEnd, ...]:
        """Return the processes of apps, from their launchers' files."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen, self._ends = stamp, tuple(self._read_ends())
        return self._ends

    def unknown_launches(self) -> bool:
        """Return whether apps start here without the id of the run."""
        return bool(_document(self._paths.live_runs / "launches.json").get("unknown"))

    def findings(self) -> list[Finding]:
        """Return the errors that prevent the archive of apps' files."""
        message = "this Flower starts apps without the id of the run"
        found = [warning("run.launch_unknown", message)] if self.unknown_launches() else []
        if self.trouble is not None:
            wrong = self.trouble.finding
            found.append(warning(wrong.code, wrong.message, wrong.hint))
        return found

    def live_bytes(self) -> int:
        """Return the bytes of running apps, from their launchers' last measurement."""
        told = _document(self._paths.live_runs / "usage.json").get("bytes")
        known = isinstance(told, int) and 0 < told < 1 << 62
        return int(told) if known and self._live() else 0  # type: ignore[arg-type]  # an int

    def settle(
        self,
        host: AppHost,
        now: datetime.datetime,
        monotonic: float,
        limit: int,
        finished: Collection[str] = (),
    ) -> None:
        """Archive the files of ended runs, one at a time, beside the loop.

        `finished` are runs that Flower calls ended a while ago, whatever their processes wrote.
        """
        live = self._live()
        self._take(monotonic, live)
        if any(work.running for work in self._work.values()):
            return
        over = _Over(self.ends(), host, now.timestamp(), finished)
        for name in live:
            if not self._due(name, monotonic):
                continue
            seen = self._directory_at(name)
            if over.is_over(name, seen, 0.0 if host.keeps else IDLE_S * self._scale):
                again = (self._paths.runs / name / "outputs.json").exists()
                act = self._archive if host.keeps and not again else self._remove_live
                self._begin(name, functools.partial(act, host.image, name, limit), monotonic)
                return
        if not live and self._due("", monotonic) and self._junk():
            self._begin("", functools.partial(self._sweep, host.image), monotonic)

    def remove(self, image: str, name: str) -> None:
        """Remove a run's outputs, as their owner. Raises AgentError."""
        if (self._paths.runs / name / "outputs").exists():
            self._tree(image, "remove", name)

    def _due(self, name: str, now: float) -> bool:
        return name not in self._work or now >= self._work[name].due_at

    def _begin(self, name: str, call: Callable[[], None], now: float) -> None:
        if name not in self._work:
            self._work[name] = Background(
                self._threads, "app-runs", lambda *_: RETRY_S * self._scale, good_for_s=0.0
            )
        work = self._work[name]
        work.take(name, now)
        work.start(name, call, now)

    def _take(self, now: float, live: Collection[str]) -> None:
        for name, work in tuple(self._work.items()):
            ended = work.take(name, now)
            if ended is not None:
                self.trouble = ended.error
                self._note(name, ended.error, there=name in live if name else self._junk())
            if not work.running and name and name not in live:
                del self._work[name]

    def _note(self, name: str, error: AgentError | None, *, there: bool) -> None:
        if error is not None:
            log.warning("run.outputs_failed", run=name, reason=str(error))
            return
        self.archived += 1
        if there:
            log.warning("run.directory_came_back", run=name)  # an app created it again

    def _live(self) -> tuple[str, ...]:
        """Return the names of the directories that apps of a run may write to."""
        return tuple(sorted(name for name in self._beside() if outcome.RUN.fullmatch(name)))

    def _junk(self) -> bool:
        """Return whether the directory has entries that are not runs."""
        known = {ENDS, "launches.json", "usage.json"}
        return any(name not in known for name in self._beside())

    def _beside(self) -> list[str]:
        try:
            with os.scandir(self._paths.live_runs) as found:
                return [entry.name for entry in itertools.islice(found, NAMES_MAX)]
        except OSError:
            return []

    def _directory_at(self, name: str) -> float:
        """Return when a run's directory last changed; 0 if there is none."""
        try:
            return (self._paths.live_runs / name).stat(follow_symlinks=False).st_mtime
        except OSError:
            return 0.0

    def _archive(self, image: str, name: str, limit: int) -> None:
        place = self._paths.runs / name
        files.directory(place, 0o770, group=FLOWER_UID)
        found = self._tree(image, "archive", name, str(limit))
        try:
            size = json.loads(found)["bytes"]
        except (ValueError, KeyError, TypeError) as error:
            raise AgentError(
                CODE, f"the list of outputs is cut: {error!r}", retryable=True
            ) from None
        files.write_atomic(place / "outputs.json", found, 0o600)
        # The list is stored before the removal: after a crash in between it is made again.
        self._tree(image, "live", name)
        log.info("run.outputs_kept", run=name, bytes=size)

    def _remove_live(self, image: str, name: str, _: int) -> None:
        self._tree(image, "live", name)
        log.info("run.directory_removed", run=name)

    def _sweep(self, image: str) -> None:
        self._tree(image, "sweep")

    def _tree(self, image: str, *command: str) -> bytes:
        program = ("python", "-I", "-S", f"{flower_versions.LAUNCHER}/trees.py")
        mounts = {
            flower_versions.LAUNCHER: (str(self._paths.launcher), False),
            "/runs": (str(self._paths.runs), True),
        }
        return self._one_shot(image, (*program, *command), mounts)

    def _stamp(self) -> int | None:
        try:
            return (self._paths.live_runs / ENDS).stat(follow_symlinks=False).st_mtime_ns
        except OSError:
            return None

    def _read_ends(self) -> Iterator[AppEnd]:
        """Yield the records of ends; the directory belongs to root, so it is not a link."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._paths.live_runs / ENDS, flags)
        except OSError:
            return
        try:
            with os.scandir(descriptor) as entries:
                names = [entry.name for entry in itertools.islice(entries, ENDS_MAX)]
            for name in (name for name in names if name.endswith(".json")):
                with contextlib.suppress(ValueError):
                    yield outcome.parse(_read(name, descriptor) or b"")
        finally:
            os.close(descriptor)


@dataclasses.dataclass(frozen=True, slots=True)
class _Over:
    """Whether runs have ended, from launchers and Flower. Apps' values are limited."""

    ends: tuple[AppEnd, ...]
    host: AppHost
    now: float
    finished: Collection[str]

    def is_over(self, name: str, changed_at: float, idle_s: float) -> bool:
        """Return whether no process of a run lives, and none ended within `idle_s`.

        A process is also over if its container was restarted later, even without a record.
        """
        if name in self.finished:
            return True
        started = self.host.started_at.timestamp()
        mine = [end for end in self.ends if end.run == name]
        if not mine:  # its launcher has not written a record yet, or was killed before
            return changed_at < started
        if any(end.ended_at is None and started <= end.began_at <= self.now for end in mine):
            return False
        last = max(min(end.ended_at or end.began_at, self.now) for end in mine)
        newer = any(end.began_at > last for end in self.ends if end.run != name)
        # A fast node waits for slow nodes: its data stay until another run begins, or for a day.
        wait_s = idle_s if newer or not idle_s else IDLE_ALONE_S
        return self.now - last >= wait_s


def _document(path: pathlib.Path) -> dict[str, Any]:
    """Return a small JSON object, possibly written by an app; empty for anything else."""
    try:
        found = json.loads(_read(path) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: pathlib.Path | str, directory: int | None = None) -> bytes | None:
    """Return the begin of a file, possibly written by an app; only of a regular file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=directory)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return os.read(descriptor, outcome.MAX_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)
