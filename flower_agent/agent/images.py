"""The images of a turn: which digests count, what is missing, and the pulls beside the loop."""

import dataclasses
import pathlib
from collections.abc import Mapping

from flower_agent import files
from flower_agent.config.settings import Settings
from flower_agent.cycle import Turn
from flower_agent.docker import image_references
from flower_agent.docker.containers import Existing
from flower_agent.docker.image_references import Registry
from flower_agent.flower import container_spec
from flower_agent.flower.frameworks import LOCAL
from flower_agent.host import machine
from flower_agent.images.builder import BackgroundBuilder
from flower_agent.model.errors import AgentError
from flower_agent.model.state import AppNeeds
from flower_agent.model.status import Mark
from flower_agent.reconcile.reconciler import Reconciler
from flower_agent.runs.app_image import AppImageResolver, Choice

MAX_LOCK_BYTES = 1 << 20


class ImageResolver:
    """Images as `images.lock` and the record want them."""

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

    def pins(self, turn: Turn) -> dict[str, str]:
        """Return the digests that count: those of images.lock, else those recorded here."""
        return {**dict(turn.record.images), **locked(self._lock)}

    def missing(self, turn: Turn, pins: Mapping[str, str]) -> tuple[str, ...]:
        """Return the images that are not here; a container that runs does without."""
        wanted = container_spec.images(turn.settings, cuda=turn.cuda)
        framework = turn.settings.framework
        turn.warnings.extend(
            machine.findings(turn.host.cpu_flags, (framework,) if framework else ())
        )
        missing = self._reconciler.missing_images(wanted, pins)
        if missing:
            turn.note("image", Mark.WAITING, f"not on this VM: {', '.join(missing)}")
        else:
            turn.note("image", Mark.OK, ", ".join(wanted))
        return missing

    def fetch(
        self, turn: Turn, missing: tuple[str, ...], pins: Mapping[str, str]
    ) -> AgentError | None:
        """Begin to pull or make what is missing; return why the last try failed."""
        pulled = tuple(name for name in missing if not name.startswith(LOCAL))
        error = self._pull(turn, pulled, pins) if pulled else None
        for reference in (name for name in missing if name.startswith(LOCAL)):
            error = self._make(turn, reference, pins) or error
        return error

    def _pull(
        self, turn: Turn, missing: tuple[str, ...], pins: Mapping[str, str]
    ) -> AgentError | None:
        error = self._reconciler.fetch(missing, pins, registry(turn.settings), turn.monotonic)
        said = self._reconciler.progress
        turn.note("image", Mark.WAITING, f"pulls {missing[0]}{': ' + said if said else ''}")
        return error

    def _make(self, turn: Turn, reference: str, pins: Mapping[str, str]) -> AgentError | None:
        parent = container_spec.parent_image(turn.settings)
        error = self._background_builder.make(
            reference, parent, pins, registry(turn.settings), turn.monotonic
        )
        said = self._background_builder.progress
        turn.note("image", Mark.WAITING, f"makes {reference}{': ' + said if said else ''}")
        return error

    def for_app(self, turn: Turn, pins: Mapping[str, str], existing: Existing | None) -> Choice:
        """Return the image with what the context's app needs, for the container that runs apps."""
        if self._apps is None:
            return Choice()
        baked = locked_apps(self._lock) if turn.settings.app_repo else {}
        return self._apps.choose(turn, pins, baked, registry(turn.settings), existing)

    def record(self, turn: Turn, pins: Mapping[str, str]) -> None:
        """Write down the digest of each image that was pulled, which counts from then on."""
        found = {
            r: self._reconciler.digest(r)
            for r in container_spec.images(turn.settings, cuda=turn.cuda)
            if r not in pins
        }
        new = {reference: digest for reference, digest in found.items() if digest}
        if new:
            recorded = tuple(sorted({**dict(turn.record.images), **new}.items()))
            turn.record = dataclasses.replace(turn.record, images=recorded)


def word(reference: str) -> str:
    """Return what a missing image asks for, as ``plan`` prints it."""
    return f"{'make' if reference.startswith(LOCAL) else 'pull'} {reference} (absent)"


def locked(lock: pathlib.Path) -> dict[str, str]:
    """Return the rows of images.lock. Raises AgentError ``state.corrupt``."""
    try:
        return image_references.parse_lock(files.read(lock, MAX_LOCK_BYTES))
    except ValueError as error:
        raise AgentError("state.corrupt", f"{lock}: {error}") from error


def locked_apps(lock: pathlib.Path) -> dict[str, AppNeeds]:
    """Return the apps of images.lock. Raises AgentError ``state.corrupt``."""
    try:
        return image_references.parse_apps(files.read(lock, MAX_LOCK_BYTES))
    except ValueError as error:
        raise AgentError("state.corrupt", f"{lock}: {error}") from error


def registry(settings: Settings) -> Registry | None:
    """Return the credentials of the registry that the images come from."""
    if settings.registry_user is None or settings.registry_password is None:
        return None
    return Registry(settings.registry_user, settings.registry_password)
