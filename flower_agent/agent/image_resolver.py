"""The images of a cycle: their pins, missing images, and the pulls beside the loop."""

import dataclasses
import pathlib
from collections.abc import Mapping

from flower_agent import files
from flower_agent.config.settings import Settings
from flower_agent.cycle import Cycle
from flower_agent.docker import image_references
from flower_agent.docker.containers import Existing
from flower_agent.docker.image_references import Registry
from flower_agent.flower import container_spec
from flower_agent.flower.frameworks import LOCAL
from flower_agent.host import machine
from flower_agent.images.builder import BackgroundBuilder
from flower_agent.model.errors import AgentError, StateFileError
from flower_agent.model.state import AppNeeds
from flower_agent.model.status import Mark
from flower_agent.reconcile.reconciler import Reconciler
from flower_agent.runs.app_image import AppImageResolver, Choice

MAX_LOCK_BYTES = 1 << 20


class ImageResolver:
    """Images as `images.lock` and the saved state pin them."""

    def __init__(
        self,
        lock: pathlib.Path,
        reconciler: Reconciler,
        background_builder: BackgroundBuilder,
        apps: AppImageResolver | None = None,
    ) -> None:
        self._lock = lock
        self._reconciler = reconciler
        self._background_builder = background_builder
        self._apps = apps

    def pins(self, cycle: Cycle) -> dict[str, str]:
        """Return the pinned digests: from images.lock, else from the saved state."""
        return {**dict(cycle.state.images), **locked(self._lock)}

    def missing(self, cycle: Cycle, pins: Mapping[str, str]) -> tuple[str, ...]:
        """Return the images that are not here; a container that runs does without."""
        wanted = container_spec.images(cycle.seen.settings, cuda=cycle.seen.cuda)
        framework = cycle.seen.settings.framework
        cycle.report.warn(
            *machine.findings(cycle.seen.host.cpu_flags, (framework,) if framework else ())
        )
        missing = self._reconciler.missing_images(wanted, pins)
        if missing:
            cycle.report.set_condition(
                "image", Mark.WAITING, f"not on this VM: {', '.join(missing)}"
            )
        else:
            cycle.report.set_condition("image", Mark.OK, ", ".join(wanted))
        return missing

    def fetch(
        self, cycle: Cycle, missing: tuple[str, ...], pins: Mapping[str, str]
    ) -> AgentError | None:
        """Begin to pull or build missing images; return why the last try failed."""
        pulled = tuple(name for name in missing if not name.startswith(LOCAL))
        error = self._pull(cycle, pulled, pins) if pulled else None
        for reference in (name for name in missing if name.startswith(LOCAL)):
            error = self._make(cycle, reference, pins) or error
        return error

    def _pull(
        self, cycle: Cycle, missing: tuple[str, ...], pins: Mapping[str, str]
    ) -> AgentError | None:
        error = self._reconciler.fetch(
            missing, pins, registry(cycle.seen.settings), cycle.seen.monotonic
        )
        said = self._reconciler.progress
        cycle.report.set_condition(
            "image", Mark.WAITING, f"pulls {missing[0]}{': ' + said if said else ''}"
        )
        return error

    def _make(self, cycle: Cycle, reference: str, pins: Mapping[str, str]) -> AgentError | None:
        parent = container_spec.parent_image(cycle.seen.settings)
        error = self._background_builder.make(
            reference, parent, pins, registry(cycle.seen.settings), cycle.seen.monotonic
        )
        said = self._background_builder.progress
        cycle.report.set_condition(
            "image", Mark.WAITING, f"builds {reference}{': ' + said if said else ''}"
        )
        return error

    def for_app(self, cycle: Cycle, pins: Mapping[str, str], existing: Existing | None) -> Choice:
        """Return the image with the app's dependencies, for the container that runs apps."""
        if self._apps is None:
            return Choice()
        baked = locked_apps(self._lock) if cycle.seen.settings.app_repo else {}
        return self._apps.choose(cycle, pins, baked, registry(cycle.seen.settings), existing)

    def record(self, cycle: Cycle, pins: Mapping[str, str]) -> None:
        """Save the digest of each pulled image, which is its pin from then on."""
        found = {
            r: self._reconciler.digest(r)
            for r in container_spec.images(cycle.seen.settings, cuda=cycle.seen.cuda)
            if r not in pins
        }
        new = {reference: digest for reference, digest in found.items() if digest}
        if new:
            recorded = tuple(sorted({**dict(cycle.state.images), **new}.items()))
            cycle.state = dataclasses.replace(cycle.state, images=recorded)


def word(reference: str) -> str:
    """Return the step for a missing image, as ``plan`` prints it."""
    return f"{'make' if reference.startswith(LOCAL) else 'pull'} {reference} (absent)"


def locked(lock: pathlib.Path) -> dict[str, str]:
    """Return the rows of images.lock. Raises AgentError ``state.corrupt``."""
    try:
        return image_references.parse_lock(files.read(lock, MAX_LOCK_BYTES))
    except ValueError as error:
        raise StateFileError("state.corrupt", f"{lock}: {error}") from error


def locked_apps(lock: pathlib.Path) -> dict[str, AppNeeds]:
    """Return the apps of images.lock. Raises AgentError ``state.corrupt``."""
    try:
        return image_references.parse_apps(files.read(lock, MAX_LOCK_BYTES))
    except ValueError as error:
        raise StateFileError("state.corrupt", f"{lock}: {error}") from error


def registry(settings: Settings) -> Registry | None:
    """Return the credentials of the registry that the images come from."""
    if settings.registry_user is None or settings.registry_password is None:
        return None
    return Registry(settings.registry_user, settings.registry_password)
