"""The images of a turn: which digests count, what is missing, and the pulls beside the loop."""

import dataclasses
import pathlib
from collections.abc import Mapping

from . import files, images, roles
from .errors import AgentError
from .images import Registry
from .settings import Settings
from .status import Mark
from .turn import Turn
from .workload import Workload

MAX_LOCK_BYTES = 1 << 20
LOCAL = "flower-agent/"
"""Images that are made on the VM; no registry has them."""


class Supply:
    """Images as `images.lock` and the record want them."""

    def __init__(self, lock: pathlib.Path, workload: Workload) -> None:
        self._lock = lock
        self._workload = workload

    def pins(self, turn: Turn) -> dict[str, str]:
        """Return the digests that count: those of images.lock, else those recorded here."""
        try:
            locked = images.parse_lock(files.read(self._lock, MAX_LOCK_BYTES))
        except ValueError as error:
            raise AgentError("state.corrupt", f"{self._lock}: {error}") from error
        return {**dict(turn.record.images), **locked}

    def missing(self, turn: Turn, pins: Mapping[str, str]) -> tuple[str, ...]:
        """Return the images that are not here; a container that runs does without."""
        wanted = roles.images(turn.settings)
        missing = self._workload.missing_images(wanted, pins)
        if missing:
            turn.note("image", Mark.WAITING, f"not on this VM: {', '.join(missing)}")
        else:
            turn.note("image", Mark.OK, ", ".join(wanted))
        return missing

    def fetch(
        self, turn: Turn, missing: tuple[str, ...], pins: Mapping[str, str]
    ) -> AgentError | None:
        """Begin to pull what a registry may have; return why the last try failed."""
        missing = tuple(name for name in missing if not name.startswith(LOCAL))
        if not missing:
            return None
        login = registry(turn.settings)
        error = self._workload.fetch(missing, pins, login, turn.monotonic)
        said = self._workload.progress
        turn.note("image", Mark.WAITING, f"pulls {missing[0]}{': ' + said if said else ''}")
        return error

    def refuse_local(self, missing: tuple[str, ...]) -> None:
        """Raise AgentError ``image.framework`` for an image that no registry has."""
        for reference in missing:
            if reference.startswith(LOCAL):
                raise AgentError("image.framework", f"{reference} is not on this VM")

    def record(self, turn: Turn, pins: Mapping[str, str]) -> None:
        """Write down the digest of each image that was pulled, which counts from then on."""
        found = {r: self._workload.digest(r) for r in roles.images(turn.settings) if r not in pins}
        new = {reference: digest for reference, digest in found.items() if digest}
        if new:
            recorded = tuple(sorted({**dict(turn.record.images), **new}.items()))
            turn.record = dataclasses.replace(turn.record, images=recorded)


def registry(settings: Settings) -> Registry | None:
    """Return the login at the registry, where one is given."""
    if settings.registry_user is None or settings.registry_password is None:
        return None
    return Registry(settings.registry_user, settings.registry_password)
