"""Takes a VM from one Flower version to another, and back when the new one does not work.

The steps are the plan's own; between the end of the old SuperLink and the start of the new one the
database is copied, or put back, beside the loop. What is to be done follows from the record and
from which copy is there, so an agent that is killed anywhere goes on from there.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from flower_agent.background import Background, Threads
from flower_agent.config.settings import Settings
from flower_agent.config.types import Role
from flower_agent.cycle import Turn
from flower_agent.docker.containers import Component
from flower_agent.flower import container_spec
from flower_agent.model.errors import AgentError, warning
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.model.status import Mark
from flower_agent.paths import Paths
from flower_agent.reconcile import restart_policy
from flower_agent.reconcile.plan import Action, Step
from flower_agent.reconcile.reconciler import Reconciler
from flower_agent.upgrade import policy
from flower_agent.upgrade.database_copy import DatabaseCopy
from flower_agent.upgrade.policy import Course

log = structlog.get_logger()

GIVE_UP_S = 180.0
"""A new version that does not work after so long is taken back."""

PROBATION_S = 20.0
"""So long a SuperLink's new version must work before it counts, and nodes follow."""

LOOK_AGAIN_S = 30.0
"""So often a SuperNode that waits for its SuperLink asks OneGate."""

Work = tuple[str, Callable[[], None]]
"""What is done with the database: in words, and the doing."""


class VersionSource(Protocol):
    """What the SuperNode's search knows of the SuperLink."""

    def version(self, settings: Settings) -> str | None:
        """Return what it publishes; empty where nothing tells, None before an answer."""

    def forget(self) -> None:
        """Ask again."""


class Upgrader:
    """Decides which version a turn runs, and sees the change through."""

    def __init__(
        self,
        prefix: str,
        paths: Paths,
        reconciler: Reconciler,
        search: VersionSource,
        threads: Threads,
        *,
        scale: float = 1.0,
    ) -> None:
        self._name = container_spec.name(prefix, Component.SUPERLINK)
        self._reconciler = reconciler
        self._database = DatabaseCopy(paths.superlink, paths.copies)
        self._search = search
        self._copying: Background[str, None] = Background(threads, "database")
        self._scale = scale
        self._course: Course | None = None
        self._wanted = ""
        self._leads = False
        self._since: float | None = None
        self._good_since: float | None = None
        self._look_at = 0.0

    def begin(self, turn: Turn) -> None:
        """Let the turn run the version that it should run now."""
        settings, record = turn.settings, turn.record
        self._leads = settings.role is Role.SUPERLINK
        self._wanted = str(settings.version)
        if record.refused is not None and record.refused[0] != self._wanted:
            turn.record = record = dataclasses.replace(record, refused=None)
        match settings.role:
            case Role.SUPERLINK:
                self._course = policy.for_superlink(settings.version, record)
            case Role.SUPERNODE:
                published = self._search.version(settings)
                self._course = policy.for_supernode(settings.version, record, published)
                if self._course.finding and turn.monotonic >= self._look_at:
                    self._look_at = turn.monotonic + LOOK_AGAIN_S * self._scale
                    self._search.forget()
            case Role.SUPEREXEC:
                self._course = None
        if self._course is None:
            return
        turn.settings = policy.settings_for(self._course.version, settings)
        turn.version_told = self._course.told
        if self._course.finding is not None:
            turn.warnings.append(self._course.finding)
        if self._course.before is not None:
            told = f"from Flower {self._course.before} to {self._course.version}"
            turn.note("upgrade", Mark.WAITING, told)

    def words(self, turn: Turn, steps: tuple[Step, ...]) -> list[str]:
        """Return the steps as a person reads them, with what happens between."""
        cut, works = self._between(turn, steps)
        said = [str(step) for step in steps]
        return [*said[:cut], *(words for words, _ in works), *said[cut:]]

    def apply(self, turn: Turn, steps: tuple[Step, ...], pins: Mapping[str, str]) -> bool:
        """Do the steps, and between them what must be done with the database.

        False: that is under way, and nothing may start before it ended.
        """
        if self._copying.running:
            turn.note("upgrade", Mark.WAITING, "the database is copied")
            return False
        ended = self._copying.take(self._wanted, turn.monotonic)
        try:
            if ended is not None and ended.error is not None:
                raise ended.error
            cut, works = self._between(turn, steps)
            if works and self._trying:
                self._database.check_room()
        except AgentError as error:
            if self._trying:
                self._refuse(turn, str(error))
            raise
        if not works:
            return self._reconciler.apply(steps, pins, turn.monotonic)
        if not self._reconciler.apply(steps[:cut], pins, turn.monotonic):
            return False
        self._copying.start(self._wanted, _doing(works), turn.monotonic)
        return False

    def judge(self, turn: Turn, unmet: Unmet | None) -> None:
        """Keep what worked; take back what does not."""
        if self._course is None:
            return
        version = str(self._course.version)
        if unmet is None:
            self._since = None
            if turn.record.flower != version and self._proved(turn):
                self._count(turn, version)
            return
        self._good_since = None
        if not self._trying or self._copying.running or self._reconciler.doing:
            self._since = None
            return
        if unmet.phase in (Phase.CONTAINER, Phase.HEALTH):
            self._since = turn.monotonic if self._since is None else self._since
        else:
            self._since = None
        since = turn.monotonic if self._since is None else self._since
        looped = self._reconciler.failures(self._name) >= restart_policy.LOOP_AT
        denied = unmet.fatal and unmet.phase in (Phase.IMAGE, Phase.CONTAINER, Phase.HEALTH)
        if looped or denied or turn.monotonic - since > GIVE_UP_S * self._scale:
            self._refuse(turn, str(unmet.finding or "it does not answer"))

    @property
    def _trying(self) -> bool:
        """A SuperLink runs, or is to run, a version that has not worked yet."""
        course = self._course
        return self._leads and course is not None and course.before is not None

    def _proved(self, turn: Turn) -> bool:
        """Tell whether what runs may count: at once, unless a SuperLink's database hangs on it."""
        if not self._trying:
            return True
        self._good_since = turn.monotonic if self._good_since is None else self._good_since
        return turn.monotonic - self._good_since >= PROBATION_S * self._scale

    def _count(self, turn: Turn, version: str) -> None:
        """Let `version` be the one that worked.

        No copy of it may be left from an earlier time: it would be put back over what it writes.
        """
        before = turn.record.flower
        if before and self._leads:
            try:
                self._database.keep(before)
            except AgentError as error:
                turn.warnings.append(warning(error.finding.code, error.finding.message))
                return
            log.info("upgrade.done", version=version, before=before)
        turn.record = dataclasses.replace(turn.record, flower=version)

    def _refuse(self, turn: Turn, why: str) -> None:
        log.error("upgrade.failed", version=self._wanted, reason=why)
        self._since = None
        turn.record = dataclasses.replace(turn.record, refused=(self._wanted, why))

    def _between(self, turn: Turn, steps: tuple[Step, ...]) -> tuple[int, tuple[Work, ...]]:
        """Return before which step the database is worked on, and how."""
        created = (i for i, s in enumerate(steps) if s.action is Action.CREATE)
        cut = next((i for i in created if steps[i].name == self._name), len(steps))
        held = turn.record.flower
        if self._course is None or held is None or cut == len(steps):
            return cut, ()
        new = str(self._course.version) if self._course.before else None
        copied = self._database.copied_for(held)
        works: list[Work] = []
        if copied not in (None, new):  # what it was made for was begun and given up
            words = f"put the database of Flower {held} back"
            works.append((words, functools.partial(self._database.restore, held)))
        if new is not None and copied != new:
            words = f"copy the database of Flower {held}"
            works.append((words, functools.partial(self._database.copy, held, new)))
        return cut, tuple(works)


def _doing(works: tuple[Work, ...]) -> Callable[[], None]:
    def do() -> None:
        for words, work in works:
            log.info("upgrade.database", does=words)
            work()

    return do
