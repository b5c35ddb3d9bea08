"""Whether the data of apps is available before their container starts; checked beside the loop.

A look is made for each source and image, again with growing pauses while it fails. It answers
which of several types a disk's file system has, so the wanted mount may follow from it.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Protocol

import structlog

from flower_agent.background import Background, Threads, after_failure, doubling
from flower_agent.config import flower_versions
from flower_agent.config.data_source import DataKind, DataSource
from flower_agent.config.settings import Settings
from flower_agent.cycle import Cycle
from flower_agent.docker import data_mounts
from flower_agent.docker.containers import Mount
from flower_agent.flower import container_spec
from flower_agent.host import machine
from flower_agent.model import errors
from flower_agent.model.errors import (
    AgentError,
    DataFilesystemError,
    DataRefusedError,
    Finding,
    warning,
)
from flower_agent.model.status import Mark

log = structlog.get_logger()

LONGEST_S = 60.0
FIRST_S = 2.0


class Volumes(Protocol):
    """Checks the data: `one_shot.DataVolumes`."""

    @property
    def owner(self) -> str:
        """The owner of the volumes."""

    def look(self, mount: Mount, image: str) -> str:
        """Return what was seen."""

    def sweep(self, keep: str) -> None:
        """Remove the volumes that nothing uses."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """The input of a check."""

    source: DataSource
    image: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """Data that apps can read."""

    mount: Mount
    words: str


class UnusableError(AgentError):
    """Data that exists but cannot be used; `mount` is Docker's mount."""

    def __init__(self, found: Finding, mount: Mount) -> None:
        super().__init__(found.code, found.message, found.hint, retryable=True)
        self.mount = mount


class AppData:
    """The data of one VM's apps."""

    def __init__(
        self,
        volumes: Volumes,
        threads: Threads,
        directory: pathlib.Path,
        *,
        file_system: Callable[[str], str] = machine.file_system,
        scale: float = 1.0,
    ) -> None:
        self._volumes = volumes
        self._looks: Background[_Asked, _Seen] = Background(
            threads, "data-look", doubling(FIRST_S * scale, LONGEST_S * scale)
        )
        self._sweeps: Background[str, None] = Background(
            threads, "data-sweep", after_failure(LONGEST_S * scale)
        )
        self._directory = directory
        self._file_system = file_system
        self._wanted: _Asked | None = None
        self._told: AgentError | None = None
        """The last logged error."""

    def mount(self, cycle: Cycle) -> Mount | None:
        """Return the wanted mount, if known; None for the agent's own directory."""
        self._take(cycle)
        source = self._source(cycle.seen.settings)
        if source is None:
            self._note_own(cycle)
            return None
        known = self._mounted()
        if known is not None and self._wanted is not None and self._wanted.source == source:
            return known
        return self._mounts(source, cycle.seen.data_propagation)[0]

    def there(self, cycle: Cycle, image: str) -> bool:
        """Return whether the data is available and readable; False while the check runs.

        Raises AgentError ``data.…`` after a failed check; the next one follows after a pause.
        """
        source = self._source(cycle.seen.settings)
        if source is None:
            return True
        self._wanted = asked = _Asked(source, image)
        self._take(cycle)
        if self._looks.answer is not None:
            self._note(cycle, source, self._looks.answer)
            return True
        cycle.report.set_condition("data", Mark.WAITING, f"checks {source.text}")
        mounts = self._mounts(source, cycle.seen.data_propagation)
        self._looks.ask(asked, lambda: look(self._volumes, asked, mounts), cycle.seen.monotonic)
        wait_s = self._looks.due_at - cycle.seen.monotonic
        if wait_s > 0:
            cycle.look_again_in(wait_s)
        if self._looks.error is not None:
            cycle.report.set_condition("data", Mark.BAD, self._looks.error.finding.message)
            raise self._looks.error
        return False

    def settled(self, cycle: Cycle, mount: Mount | None) -> None:
        """Note the present data, and remove the volumes of earlier data."""
        source = self._source(cycle.seen.settings)
        if self._looks.answer is not None and mount is not None and source is not None:
            self._note(cycle, source, self._looks.answer)
        elif mount is not None:
            cycle.report.set_condition("data", Mark.OK, self._shown(cycle.seen.settings))
        keep = mount.source if mount is not None and mount.volume else ""
        self._sweeps.ask(keep, lambda: self._volumes.sweep(keep), cycle.seen.monotonic)

    def named(self, cycle: Cycle, error: AgentError) -> AgentError:
        """Return the data's error if Docker's refusal was about the data, else `error`."""
        source = self._source(cycle.seen.settings)
        if source is None or not data_mounts.is_meant(source, error.finding.message):
            return error
        mount = self.mount(cycle) or Mount("", flower_versions.DATA)
        refusal = data_mounts.refusal(source, mount, error.finding.message)
        found = errors.of(refusal, retryable=True)
        self._looks.refuted(found, cycle.seen.monotonic)  # the last check is outdated: check again
        return found

    def _source(self, settings: Settings) -> DataSource | None:
        source = settings.data
        own = source is not None and source.where == str(self._directory)
        return None if own or not container_spec.runs_apps(settings) else source

    def _mounts(self, source: DataSource, propagation: str) -> tuple[Mount, ...]:
        disk = source.kind in (DataKind.LABEL, DataKind.UUID, DataKind.DEVICE)
        known = self._file_system(source.where) if disk else ""
        return data_mounts.mounts(source, self._volumes.owner, known, propagation=propagation)

    def _take(self, cycle: Cycle) -> None:
        if self._wanted is None or self._looks.take(self._wanted, cycle.seen.monotonic) is None:
            return
        error, before = self._looks.error, self._told
        self._told = error
        if error is not None and (before is None or before.finding != error.finding):
            log.warning("data.trouble", code=error.finding.code, message=error.finding.message)

    def _mounted(self) -> Mount | None:
        """Return the mount of the last check, if it was possible."""
        if self._looks.answer is not None:
            return self._looks.answer.mount
        return self._looks.error.mount if isinstance(self._looks.error, UnusableError) else None

    def _note(self, cycle: Cycle, source: DataSource, seen: _Seen) -> None:
        kind = dict(seen.mount.volume).get("type", "")
        shown = f"{source.text}{f' ({kind})' if kind else ''}: {seen.words}"
        cycle.report.set_condition("data", Mark.OK, shown)
        if "unreadable" in seen.words:
            cycle.report.warn(warning("data.unreadable", f"FLOWER_DATA is {shown}"))

    def _note_own(self, cycle: Cycle) -> None:
        """Warn if apps cannot read the own directory; its mode belongs to the operator."""
        try:
            seen = self._directory.stat()
        except OSError:
            return  # this cycle creates the directory
        closed = data_mounts.closed_by_mode(seen.st_mode, seen.st_uid, seen.st_gid)
        if closed and container_spec.runs_apps(cycle.seen.settings):
            message = f"Flower's user {flower_versions.UID} cannot read {self._directory}"
            cycle.report.warn(warning("data.unreadable", message))

    def _shown(self, settings: Settings) -> str:
        source = self._source(settings)
        return source.text if source is not None else str(self._directory)


def look(volumes: Volumes, asked: _Asked, mounts: tuple[Mount, ...]) -> _Seen:
    """Return the result of a check of the data, with the first mount of the right type.

    Raises AgentError ``data.…``, or `UnusableError` if Docker mounts the data but apps cannot use
    it.
    """
    tried: list[AgentError] = []
    for mount in mounts:
        try:
            said = volumes.look(mount, asked.image)
        except DataRefusedError as error:
            refusal = data_mounts.refusal(asked.source, mount, error.finding.message)
            tried.append(errors.of(refusal, retryable=True))
            # A wrong type says nothing about the next one; any other refusal is final.
            if isinstance(tried[-1], DataFilesystemError):
                continue
            break
        words, wrong = data_mounts.judge(asked.source, said)
        if wrong:
            raise UnusableError(wrong, mount)
        return _Seen(mount, words)
    failed = tried[-1]
    if len(mounts) > 1 and isinstance(failed, DataFilesystemError):
        types = ", ".join(dict(mount.volume)["type"] for mount in mounts)
        message = f"FLOWER_DATA is {asked.source.text}, which has no file system of type {types}"
        failed = failed.reworded(message)
    raise failed
