"""Whether the data of apps is there, before their container is made; looked at beside the loop.

A look is made for each source and image, again with growing pauses while it fails. It answers
which of several types a disk's file system has, so the wanted mount may follow from it.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Protocol

import structlog

from flower_agent.config.settings import Settings
from flower_agent.errands import Errands
from flower_agent.errors import AgentError, Finding, warning
from flower_agent.loop.turn import Turn
from flower_agent.machine import udev
from flower_agent.reporting.status import Mark
from flower_agent.wanted import app_data, flower, roles
from flower_agent.wanted.app_data import Kind, Source
from flower_agent.wanted.containers import Mount

LONGEST_S = 60.0
FIRST_S = 2.0

_LOOK, _SWEEP = "data-look", "data-sweep"

log = structlog.get_logger()


class Volumes(Protocol):
    """What looks at the data: `data_volumes.DataVolumes`."""

    @property
    def owner(self) -> str:
        """Whose volumes they are."""

    def look(self, mount: Mount, image: str) -> str:
        """Return what was seen."""

    def sweep(self, keep: str) -> None:
        """Remove the volumes that nothing uses."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """What a look was made for; an answer to another question is dropped."""

    source: Source
    image: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    """How a look ended."""

    asked: _Asked
    mount: Mount | None = None
    words: str = ""
    error: AgentError | None = None


class DataSupply:
    """The data of one VM's apps."""

    def __init__(
        self,
        volumes: Volumes,
        errands: Errands,
        directory: pathlib.Path,
        *,
        file_system: Callable[[str], str] = udev.file_system,
        scale: float = 1.0,
    ) -> None:
        self._volumes = volumes
        self._errands = errands
        self._directory = directory
        self._file_system = file_system
        self._scale = scale
        self._asked: _Asked | None = None
        self._answer: _Answer | None = None
        self._failures = 0
        self._again_at = float("-inf")
        self._swept: str | None = None

    def mount(self, turn: Turn) -> Mount | None:
        """Return the wanted mount as far as it is known; None for the agent's own directory."""
        self._take(turn)
        source = self._source(turn.settings)
        if source is None:
            self._note_own(turn)
            return None
        answer = self._answer
        if answer is not None and answer.asked.source == source and answer.mount is not None:
            return answer.mount
        return self._mounts(source, turn.data_propagation)[0]

    def there(self, turn: Turn, image: str) -> bool:
        """Tell whether the data is there and can be read; False while that is looked at.

        Raises AgentError ``data.…`` after a look that failed; the next is made after a wait.
        """
        source = self._source(turn.settings)
        if source is None:
            return True
        asked = _Asked(source, image)
        if self._asked != asked:
            self._asked, self._answer = asked, None
            self._failures, self._again_at = 0, float("-inf")
        answer = self._answer
        if answer is not None and answer.error is None:
            self._note(turn, answer)
            return True
        turn.note("data", Mark.WAITING, f"looks at {source.text}")
        if turn.monotonic >= self._again_at:
            mounts = self._mounts(source, turn.data_propagation)
            self._errands.start(_LOOK, lambda: look(self._volumes, asked, mounts))
        else:
            turn.next_s = min(turn.next_s, self._again_at - turn.monotonic)
        if answer is not None and answer.error is not None:
            turn.note("data", Mark.BAD, answer.error.finding.message)
            raise answer.error
        return False

    def settled(self, turn: Turn, mount: Mount | None) -> None:
        """Note what is read, and remove the volumes of what was read before."""
        if self._answer is not None and self._answer.error is None and mount is not None:
            self._note(turn, self._answer)
        elif mount is not None:
            turn.note("data", Mark.OK, self._shown(turn.settings))
        keep = mount.source if mount is not None and mount.volume else ""
        if self._swept != keep and self._errands.start(_SWEEP, lambda: self._volumes.sweep(keep)):
            self._swept = keep

    def named(self, turn: Turn, error: AgentError) -> AgentError:
        """Return what Docker's refusal to start a container says of the data, else `error`."""
        source = self._source(turn.settings)
        if source is None or not app_data.is_meant(source, error.finding.message):
            return error
        mount = self.mount(turn) or Mount("", flower.DATA)
        self._answer = None  # it was there, and is looked at anew
        self._rest(turn)
        return _error(app_data.refusal(source, mount, error.finding.message))

    def _source(self, settings: Settings) -> Source | None:
        source = settings.data
        own = source is not None and source.where == str(self._directory)
        return None if own or not roles.runs_apps(settings) else source

    def _mounts(self, source: Source, propagation: str) -> tuple[Mount, ...]:
        disk = source.kind in (Kind.LABEL, Kind.UUID, Kind.DEVICE)
        known = self._file_system(source.where) if disk else ""
        return app_data.mounts(source, self._volumes.owner, known, propagation=propagation)

    def _take(self, turn: Turn) -> None:
        self._errands.take(_SWEEP)  # what it left is removed after the next change
        done = self._errands.take(_LOOK)
        if done is None:
            return
        answer: _Answer | None = done.value
        if answer is not None and answer.asked != self._asked:
            return  # the question changed meanwhile
        before, self._answer = self._answer, answer
        error = done.error if answer is None else answer.error
        if error is None:
            self._failures = 0
            return
        self._rest(turn)
        if before is None or before.error is None or before.error.finding != error.finding:
            log.warning("data.trouble", code=error.finding.code, message=error.finding.message)

    def _rest(self, turn: Turn) -> None:
        """Look again after a wait that doubles."""
        self._failures += 1
        wait_s = min(FIRST_S * 2.0 ** min(self._failures - 1, 16), LONGEST_S)
        self._again_at = turn.monotonic + wait_s * self._scale

    def _note(self, turn: Turn, answer: _Answer) -> None:
        kind = dict(answer.mount.volume).get("type", "") if answer.mount else ""
        shown = f"{answer.asked.source.text}{f' ({kind})' if kind else ''}: {answer.words}"
        turn.note("data", Mark.OK, shown)
        if "unreadable" in answer.words:
            turn.warnings.append(warning("data.unreadable", f"FLOWER_DATA is {shown}"))

    def _note_own(self, turn: Turn) -> None:
        """Warn of an own directory that keeps apps out; its mode is the operator's."""
        try:
            seen = self._directory.stat()
        except OSError:
            return  # made by the turn that follows
        closed = app_data.closed_by_mode(seen.st_mode, seen.st_uid, seen.st_gid)
        if closed and roles.runs_apps(turn.settings):
            message = f"Flower's user {flower.UID} may not read {self._directory}"
            turn.warnings.append(warning("data.unreadable", message))

    def _shown(self, settings: Settings) -> str:
        source = self._source(settings)
        return source.text if source is not None else str(self._directory)


def look(volumes: Volumes, asked: _Asked, mounts: tuple[Mount, ...]) -> _Answer:
    """Return how a look at the data ends: by the first mount whose type is the disk's."""
    tried: list[Finding] = []
    for mount in mounts:
        try:
            said = volumes.look(mount, asked.image)
        except AgentError as error:
            if error.finding.code != "data.refused":
                return _Answer(asked, error=error)
            tried.append(app_data.refusal(asked.source, mount, error.finding.message))
            if tried[-1].code == "data.filesystem":
                continue
            break
        words, wrong = app_data.judge(asked.source, said)
        return _Answer(asked, mount, words, _error(wrong) if wrong else None)
    found = tried[-1]
    if len(mounts) > 1 and found.code == "data.filesystem":
        types = ", ".join(dict(mount.volume)["type"] for mount in mounts)
        message = f"FLOWER_DATA is {asked.source.text}, which holds no file system of {types}"
        found = dataclasses.replace(found, message=message)
    return _Answer(asked, error=_error(found))


def _error(found: Finding) -> AgentError:
    return AgentError(found.code, found.message, found.hint, retryable=True)
