"""Changes a VM from one Flower version to another, and back if the new one does not work.

The steps are the plan's own. Between the end of the old SuperLink and the start of the new one the
database is copied or restored, beside the loop. The saved state and the existing copy decide what
to do, so after a crash at any point the agent continues.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from flower_agent.background import Background, Threads
from flower_agent.config.settings import Settings
from flower_agent.config.types import Role
from flower_agent.cycle import Cycle
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
"""A new version that does not work after this time is given up."""

PROBATION_S = 20.0
"""A SuperLink's new version must work for this long before it counts and nodes follow."""

LOOK_AGAIN_S = 30.0
"""Interval at which a waiting SuperNode asks OneGate for its SuperLink's version."""

Work = tuple[str, Callable[[], None]]
"""Work on the database: its description and its function."""


class VersionSource(Protocol):
    """The SuperNode's search for its SuperLink."""

    def version(self, settings: Settings) -> str | None:
        """Return the published version; empty if unknown, None before an answer."""

    def forget(self) -> None:
        """Ask again."""


class Upgrader:
    """Decides which version a cycle runs, and does the change."""

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

    def begin(self, cycle: Cycle) -> None:
        """Give the cycle the settings of the version that should run now."""
        settings, record = cycle.seen.settings, cycle.state
        self._leads = settings.role is Role.SUPERLINK
        self._wanted = str(settings.version)
        # Another FLOWER_VERSION: the failure of the last one no longer counts.
        if record.refused is not None and record.refused[0] != self._wanted:
            cycle.state = record = dataclasses.replace(record, refused=None)
        match settings.role:
            case Role.SUPERLINK:
                self._course = policy.for_superlink(settings.version, record)
            case Role.SUPERNODE:
                published = self._search.version(settings)
                self._course = policy.for_supernode(settings.version, record, published)
                if self._course.finding and cycle.seen.monotonic >= self._look_at:
                    self._look_at = cycle.seen.monotonic + LOOK_AGAIN_S * self._scale
                    self._search.forget()
            case Role.SUPEREXEC:
                self._course = None
        if self._course is None:
            return
        taken = policy.settings_for(self._course.version, settings)
        cycle.seen = dataclasses.replace(cycle.seen, settings=taken)
        cycle.report.version = self._course.told
        if self._course.finding is not None:
            cycle.report.warn(self._course.finding)
        if self._course.before is not None:
            told = f"from Flower {self._course.before} to {self._course.version}"
            cycle.report.set_condition("upgrade", Mark.WAITING, told)

    def words(self, cycle: Cycle, steps: tuple[Step, ...]) -> list[str]:
        """Return the steps as text, with the work on the database between them."""
        cut, works = self._between(cycle, steps)
        said = [str(step) for step in steps]
        return [*said[:cut], *(words for words, _ in works), *said[cut:]]

    def apply(self, cycle: Cycle, steps: tuple[Step, ...], pins: Mapping[str, str]) -> bool:
        """Do the steps, and the work on the database between them.

        False: the work runs, and nothing may start before its end.
        """
        if self._copying.running:
            cycle.report.set_condition("upgrade", Mark.WAITING, "copies the database")
            return False
        ended = self._copying.take(self._wanted, cycle.seen.monotonic)
        try:
            if ended is not None and ended.error is not None:
                raise ended.error
            cut, works = self._between(cycle, steps)
            # Before the old version stops: without space for a copy nothing changes.
            if works and self._trying:
                self._database.check_room()
        except AgentError as error:
            if self._trying:
                self._refuse(cycle, str(error))
            raise
        if not works:
            return self._reconciler.apply(steps, pins, cycle.seen.monotonic)
        if not self._reconciler.apply(steps[:cut], pins, cycle.seen.monotonic):
            return False
        self._copying.start(self._wanted, _doing(works), cycle.seen.monotonic)
        return False

    def judge(self, cycle: Cycle, unmet: Unmet | None) -> None:
        """Accept a version that works; give up one that does not."""
        if self._course is None:
            return
        version = str(self._course.version)
        if unmet is None:
            self._since = None
            if cycle.state.flower != version and self._proved(cycle):
                self._count(cycle, version)
            return
        self._good_since = None
        if not self._trying or self._copying.running or self._reconciler.doing:
            self._since = None
            return
        # Only these phases are the version's fault; a slow pull or OneGate is not.
        if unmet.phase in (Phase.CONTAINER, Phase.HEALTH):
            self._since = cycle.seen.monotonic if self._since is None else self._since
        else:
            self._since = None
        since = cycle.seen.monotonic if self._since is None else self._since
        looped = self._reconciler.failures(self._name) >= restart_policy.LOOP_AT
        denied = unmet.fatal and unmet.phase in (Phase.IMAGE, Phase.CONTAINER, Phase.HEALTH)
        if looped or denied or cycle.seen.monotonic - since > GIVE_UP_S * self._scale:
            self._refuse(cycle, str(unmet.finding or "it does not answer"))

    @property
    def _trying(self) -> bool:
        """A SuperLink has a new version that has not worked yet."""
        course = self._course
        return self._leads and course is not None and course.before is not None

    def _proved(self, cycle: Cycle) -> bool:
        """Return whether the running version counts as good: at once, except on a SuperLink."""
        if not self._trying:
            return True
        self._good_since = cycle.seen.monotonic if self._good_since is None else self._good_since
        return cycle.seen.monotonic - self._good_since >= PROBATION_S * self._scale

    def _count(self, cycle: Cycle, version: str) -> None:
        """Record `version` as working.

        An old copy of its database must not stay: a later restore would overwrite newer data.
        """
        before = cycle.state.flower
        if before and self._leads:
            try:
                self._database.keep(before)
            except AgentError as error:
                cycle.report.warn(warning(error.finding.code, error.finding.message))
                return
            log.info("upgrade.done", version=version, before=before)
        cycle.state = dataclasses.replace(cycle.state, flower=version)

    def _refuse(self, cycle: Cycle, why: str) -> None:
        log.error("upgrade.failed", version=self._wanted, reason=why)
        self._since = None
        cycle.state = dataclasses.replace(cycle.state, refused=(self._wanted, why))

    def _between(self, cycle: Cycle, steps: tuple[Step, ...]) -> tuple[int, tuple[Work, ...]]:
        """Return the number of steps before the work on the database, and this work."""
        created = (i for i, s in enumerate(steps) if s.action is Action.CREATE)
        cut = next((i for i in created if steps[i].name == self._name), len(steps))
        held = cycle.state.flower
        if self._course is None or held is None or cut == len(steps):
            return cut, ()
        new = str(self._course.version) if self._course.before else None
        copied = self._database.copied_for(held)
        works: list[Work] = []
        if copied not in (None, new):  # the upgrade of this copy began and was given up
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
