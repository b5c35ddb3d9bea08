"""The image with the dependencies of the app of CUSTOM_APP_REPO: the choice, and the build.

Download and build run in the background, with longer and longer pauses after failures. The running
container stays meanwhile: a failed build is a warning, and the agent changes to another image only
while no app computes.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import structlog

from flower_agent.background import Background, Threads
from flower_agent.config.types import AppSource, Role, parse_app_source
from flower_agent.cycle import Cycle
from flower_agent.docker import image_references
from flower_agent.docker.client import Engine
from flower_agent.docker.containers import Existing
from flower_agent.docker.image_references import Image, Registry
from flower_agent.flower import container_spec
from flower_agent.images import app_images
from flower_agent.images.builder import Progress
from flower_agent.images.builder import WheelSource as Wheels
from flower_agent.model import state
from flower_agent.model.errors import AgentError, warning
from flower_agent.model.state import AppNeeds
from flower_agent.model.status import Mark
from flower_agent.reconcile import restart_policy
from flower_agent.runs import pyproject
from flower_agent.runs.calls import Repository

log = structlog.get_logger()

IDLE_S = 60.0
"""No app may have computed for this long before a change of the image: rounds have pauses."""

LOOK_S = 5.0

FIRST_LINES = 200
"""A container without any app writes fewer lines than this."""

_COMPUTES = re.compile("flwr-(?:client|server)app")
"""The programs that run apps, in command lines and in logs (``Start `flwr-clientapp` …``)."""

_ENDED = "<defunct>"
"""``ps`` shows an ended process this way; Flower does not wait for its child processes."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class AppBuilder(Protocol):
    """Builds an image: `builder.ImageBuilder`."""

    def ensure_app(
        self,
        parent: str,
        dependencies: tuple[str, ...],
        *,
        where: Wheels,
        pins: Mapping[str, str],
        cuda: bool,
        registry: Registry | None,
        progress: Progress,
        warn: Progress,
    ) -> Image:
        """Return the image with an app's dependencies."""


class DependencyCheck(Protocol):
    """Finds the packages that an image lacks: `bundle.Bundler`."""

    def lacking(self, image: str, dependencies: Sequence[str]) -> tuple[str, ...]:
        """Return which dependencies an image lacks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The image for apps, if it is not the role's image."""

    image: str = ""
    """Empty: the image of `container_spec.images` is enough."""

    made_of: str = ""

    pending: bool = False
    """Not known yet, without a failure so far: the start should wait."""

    short: bool = False
    """Packages of the app are missing, or this is not known: a run would fail."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Order:
    """A wanted image, with the facts whose change makes a new try useful."""

    reference: str
    made_of: str
    registry: Registry | None
    where: Wheels


class AppImageResolver:
    """The app's image of one VM."""

    def __init__(
        self,
        engine: Engine,
        threads: Threads,
        repository: Repository,
        scales: DependencyCheck,
        builder: AppBuilder,
        *,
        where: Wheels | None = None,
        scale: float = 1.0,
    ) -> None:
        self._engine = engine
        pause = restart_policy.policy(scale)
        self._fetching: Background[str, AppNeeds] = Background(
            threads, "app-fetch", pause, good_for_s=0.0
        )
        self._making: Background[_Order, bool] = Background(
            threads, "app-image", pause, good_for_s=0.0
        )
        self._repository = repository
        self._scales = scales
        self._builder = builder
        self._usual = self._where = where or Wheels()
        self._scale = scale
        self._enough: set[str] = set()
        """Dependencies that the role's image already has: `app_images.made_of`."""

        self._large: dict[str, str] = {}
        """Images that were built without the wanted CPU builds, and the reason."""

        self._lacking: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
        """The missing packages of an image, from a check inside it."""

        self._asked: tuple[str, tuple[str, ...]] = ("", ())
        """The role's image and the app's dependencies in this cycle."""

        self._pinned: tuple[object, str] = (None, "")
        """The image of a container, and its pin as in ``images.lock``."""

        self._idle_since: float | None = None
        self._progress = ""

    def choose(
        self,
        cycle: Cycle,
        pins: Mapping[str, str],
        baked: Mapping[str, AppNeeds],
        registry: Registry | None,
        existing: Existing | None,
    ) -> Choice:
        """Return the image for the container that runs apps, `existing` where it is there."""
        parent = container_spec.app_parent(cycle.seen.settings, cuda=cycle.seen.cuda)
        self._asked = (parent, ())
        choice = self._choose(cycle, parent, pins, baked, registry=registry, existing=existing)
        if container_spec.runs_apps(cycle.seen.settings) and not cycle.seen.dry:
            self._publish(cycle, parent, choice, existing)
        return choice

    def _choose(
        self,
        cycle: Cycle,
        parent: str,
        pins: Mapping[str, str],
        baked: Mapping[str, AppNeeds],
        *,
        registry: Registry | None,
        existing: Existing | None,
    ) -> Choice:
        if cycle.seen.settings.app_repo is None or not container_spec.runs_apps(
            cycle.seen.settings
        ):
            cycle.state = dataclasses.replace(cycle.state, app=None, app_image=None)
            return Choice()
        # Until the new image is known, the last choice stays in use.
        kept = self._kept(cycle, parent, existing)
        try:
            found = self._found(cycle, parent, pins, baked, registry)
        except AgentError as error:
            self._tell(cycle, error, kept)
            return dataclasses.replace(kept, short=True)
        if found is None:
            return dataclasses.replace(kept, pending=not kept.image, short=True)
        # A change replaces the container, which would end a computing app.
        busy = self._holds(kept.image or parent, existing) if found != kept else None
        if busy is not None and not cycle.seen.dry and self._computes(cycle, busy):
            _waits(cycle, "its image is there; it waits until no app computes")
            return dataclasses.replace(kept, short=True)
        self._idle_since = None
        if not cycle.seen.dry:
            held = (found.image, found.made_of) if found.image else None
            cycle.state = dataclasses.replace(cycle.state, app_image=held)
        return found

    def _publish(
        self, cycle: Cycle, parent: str, choice: Choice, existing: Existing | None
    ) -> None:
        """Publish the image that runs apps here, and its missing packages of the context's app.

        Not on the SuperLink, which knows its own image.
        """
        if cycle.seen.settings.role is Role.SUPERLINK:
            return
        lacking: tuple[str, ...] | None = None
        if cycle.seen.settings.app_repo is not None and not choice.short:
            lacking = ()
        elif choice.short and not choice.image:
            lacking = self._lacking.get(self._asked)
        digest = choice.made_of or self._pin(parent, existing)
        cycle.report.published = dataclasses.replace(
            cycle.report.published, app_image=app_images.published(digest, lacking)
        )

    def _pin(self, parent: str, existing: Existing | None) -> str:
        """Return the pin of `parent` as in ``images.lock``; checked once per container."""
        asked = (parent, existing.container_id if existing else "")
        if self._pinned[0] != asked or not self._pinned[1]:
            found = self._engine.image(parent)
            self._pinned = (asked, image_references.pin(parent, found) if found else "")
        return self._pinned[1]

    def through(self, proxy: str) -> None:
        """Let pip use this proxy from now on; empty: the proxy of the agent's environment."""
        self._where = dataclasses.replace(self._usual, proxy=proxy or self._usual.proxy)

    def forget(self) -> None:
        """Try again at once: other settings may help."""
        self._fetching.forget()
        self._making.forget()

    def _kept(self, cycle: Cycle, parent: str, existing: Existing | None) -> Choice:
        """Return the last choice if it is still valid; else the role's image."""
        image, made_of = cycle.state.app_image or ("", "")
        if not image or not app_images.derives(image, parent):
            return Choice()
        if existing is None or not existing.running:
            found = self._engine.image(image)
            if found is None or found.made_of != made_of:
                return Choice()
        return Choice(image, made_of)

    def _found(
        self,
        cycle: Cycle,
        parent: str,
        pins: Mapping[str, str],
        baked: Mapping[str, AppNeeds],
        registry: Registry | None,
    ) -> Choice | None:
        """Return the image for the app; None while it is not known. Raises AgentError."""
        needs = self._needs(cycle, parse_app_source(cycle.seen.settings.app_repo or ""), baked)
        if needs is None:
            return None
        wanted = app_images.needed(needs.dependencies)
        self._asked = (parent, wanted)
        base = self._engine.image(parent) if wanted else None
        if not wanted:
            cycle.report.set_condition("app", Mark.OK, f"{needs} needs nothing besides Flower")
            return Choice()
        if base is None or image_references.pinned(parent, base, pins.get(parent, "")) is None:
            _waits(cycle, f"{needs} waits for {parent}")
            return None
        reference = app_images.image(parent, wanted, cuda=cycle.seen.cuda)
        made_of = app_images.made_of(
            image_references.pin(parent, base), wanted, cuda=cycle.seen.cuda
        )
        found = self._engine.image(reference)
        if (found is None or found.made_of != made_of) and made_of not in self._enough:
            order = _Order(reference, made_of, registry, self._where)
            make = functools.partial(self._make, order, parent, wanted, pins, cuda=cycle.seen.cuda)
            needed = self._try(cycle, self._making, order, make)
            if needed is None:
                said = f": {self._progress}" if self._progress else ""
                _waits(cycle, f"makes {reference} for {needs}{said}")
                return None
            if not needed:
                self._enough.add(made_of)
        if made_of in self._enough:
            cycle.report.set_condition("app", Mark.OK, f"{needs} has its dependencies in {parent}")
            return Choice()
        cycle.report.set_condition("app", Mark.OK, f"{needs} has its dependencies in {reference}")
        if reference in self._large:
            cycle.report.warn(warning("image.cpu_builds", self._large[reference]))
        return Choice(reference, made_of)

    def _needs(
        self, cycle: Cycle, source: AppSource, baked: Mapping[str, AppNeeds]
    ) -> AppNeeds | None:
        name = str(source)
        known = cycle.state.app
        if name in baked and known != baked[name]:
            known = baked[name]
        elif known is None or known.source != name:
            fetched = functools.partial(fetch, self._repository, source)
            known = self._try(cycle, self._fetching, name, fetched)
            if known is None:
                _waits(cycle, f"fetches {name} to see what it needs")
                return None
            log.info("app.needs", source=name, commit=known.commit, needs=known.dependencies)
        if not cycle.seen.dry:
            cycle.state = dataclasses.replace(cycle.state, app=known)
        return known

    def _make(
        self,
        order: _Order,
        parent: str,
        wanted: tuple[str, ...],
        pins: Mapping[str, str],
        *,
        cuda: bool,
    ) -> bool:
        """Build the image if `parent` lacks something; return whether it was needed."""
        lacking = self._lacking[parent, wanted] = self._scales.lacking(parent, wanted)
        if not lacking:
            return False
        self._large.pop(order.reference, None)
        self._builder.ensure_app(
            parent,
            wanted,
            where=order.where,
            pins=pins,
            cuda=cuda,
            registry=order.registry,
            progress=self._say,
            warn=functools.partial(self._large.__setitem__, order.reference),
        )
        return True

    def _try(
        self,
        cycle: Cycle,
        work: Background[Request, Answer],
        request: Request,
        call: Callable[[], Answer],
    ) -> Answer | None:
        """Return the result of the work, None while it runs. Raises AgentError."""
        ended = work.take(request, cycle.seen.monotonic)
        if ended is not None:
            self._progress = ""
            if ended.error is None:
                return ended.answer
            log.warning("app.failed", reason=str(ended.error))
        if not cycle.seen.dry and cycle.seen.monotonic >= work.due_at:
            work.start(request, call, cycle.seen.monotonic)
        if work.error is not None:
            wait_s = max(work.due_at - cycle.seen.monotonic, LOOK_S * self._scale)
            cycle.look_again_in(wait_s)
            raise work.error
        return None

    def _holds(self, reference: str, existing: Existing | None) -> Existing | None:
        """Return the container if it seems to run `reference`."""
        if existing is None or not existing.running:
            return None
        now, then = self._engine.image(existing.image), self._engine.image(reference)
        other = now is not None and then is not None and now.image_id != then.image_id
        return None if other else existing

    def _computes(self, cycle: Cycle, existing: Existing) -> bool:
        """Return whether an app computed in the container within `IDLE_S`, as far as known."""
        cycle.look_again_in(LOOK_S * self._scale)
        running: tuple[str, ...] | None = None
        with contextlib.suppress(AgentError):  # needs `ps` on the VM
            running = self._engine.processes(existing.name)
        if any(_COMPUTES.search(command) and _ENDED not in command for command in running or ()):
            self._idle_since = cycle.seen.monotonic
        elif self._idle_since is None:
            # Rounds have pauses, but without any app so far there is no round to wait for.
            idle_s = 0.0 if running is None or self._used(existing, running) else IDLE_S
            self._idle_since = cycle.seen.monotonic - idle_s * self._scale
        return cycle.seen.monotonic - self._idle_since < IDLE_S * self._scale

    def _used(self, existing: Existing, running: tuple[str, ...]) -> bool:
        """Return whether an app ran in the container since its start, if that can be seen."""
        if any(_COMPUTES.search(command) for command in running):
            return True  # an ended process that nobody waited for
        try:
            said = self._engine.logs(existing.name, since=existing.started_at, tail=FIRST_LINES)
        except AgentError:
            return True
        return said.count("\n") >= FIRST_LINES or _COMPUTES.search(said) is not None

    def _tell(self, cycle: Cycle, error: AgentError, kept: Choice) -> None:
        found = error.finding
        runs = kept.image or "the image without the app's dependencies"
        cycle.report.set_condition("app", Mark.BAD, f"apps run in {runs}: see the warning")
        cycle.report.warn(warning(found.code, f"{found.message}; apps run in {runs}", found.hint))

    def _say(self, text: str) -> None:
        self._progress = text


def fetch(repository: Repository, source: AppSource) -> AppNeeds:
    """Fetch an app and read what it declares. Raises AgentError ``run.…``."""
    commit, found = repository.fetch(source)
    app = pyproject.read(found.get(pyproject.FILE), str(source))
    return state.AppNeeds(str(source), commit, str(app), app.dependencies)


def _waits(cycle: Cycle, detail: str) -> None:
    """Say that the app's image is on its way; what the image in use lacks is no warning then."""
    cycle.app_image_due = True
    cycle.report.set_condition("app", Mark.WAITING, detail)
