"""The slow parts of a run, done beside the loop: fetch and bundle an app, submit it, read its log.

They take values and return values, so that the loop alone keeps what is known.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from flower_agent.config.settings import Settings
from flower_agent.config.types import AppSource
from flower_agent.flower.control_client import Control
from flower_agent.flower.control_messages import RunInfo
from flower_agent.model.errors import ControlRefusedError
from flower_agent.runs import pyproject, submission
from flower_agent.runs.pyproject import App, RunConfig
from flower_agent.runs.store import RunLog
from flower_agent.runs.submission import Submission

START_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 5.0
LAST_LOOK_S = 60.0
"""Time limit for the whole log of an ended run."""


class Repository(Protocol):
    """What `git.Git` does."""

    def fetch(self, source: AppSource) -> tuple[str, dict[str, bytes]]:
        """Return a commit and the app's files."""

    def resolve(self, source: AppSource) -> str:
        """Return the ref's present commit."""


class Bundles(Protocol):
    """What `bundle.Bundler` does."""

    def build(self, image: str, files: Mapping[str, bytes]) -> bytes:
        """Make a bundle of an app's files, given an image of the wanted Flower."""

    def lacking(self, image: str, dependencies: Sequence[str]) -> tuple[str, ...]:
        """Return which dependencies an image lacks."""


Build = Callable[[str, Mapping[str, bytes]], bytes]

Connect = Callable[[], Control]
"""Returns a new client of the Control API."""


@dataclasses.dataclass(frozen=True, slots=True)
class PreparedRun:
    """A fetched app, its bundle, and the context's values for it."""

    commit: str
    app: App
    bundle: bytes
    fitted: RunConfig


def prepare(
    repository: Repository, build: Build, source: AppSource, settings: Settings, *, image: str
) -> PreparedRun:
    """Fetch an app, make its bundle, and fit the settings to it. Raises AgentError ``run.…``."""
    commit, found = repository.fetch(source)
    app = pyproject.read(found.get(pyproject.FILE), str(source))
    fitted = pyproject.fit(settings, app)
    return PreparedRun(commit, app, build(image, found), fitted)


def start(connect: Connect, known: Submission, bundle: bytes, federation: str) -> str:
    """Submit the run and return its id; `known` as it was before it was asked for now.

    Where an earlier answer was lost, the run that came of it is taken.
    """
    with contextlib.closing(connect()) as api:
        if known.asked_at is not None:
            run_id = submission.adopted(known, api.list_runs(CALL_TIMEOUT_S, limit=1000))
            if run_id is not None:
                return run_id
        return api.start_run(bundle, known.overrides, federation, START_TIMEOUT_S)


def list_runs(connect: Connect, limit: int) -> tuple[RunInfo, ...]:
    """Return the SuperLink's newest runs, oldest first. Raises AgentError ``control.…``."""
    with contextlib.closing(connect()) as api:
        return api.list_runs(CALL_TIMEOUT_S, limit=limit)


def look(connect: Connect, journal: RunLog, look_s: float) -> RunInfo:
    """Return the run as it is, with its log read into `journal`: the whole log where it has ended.

    Raises AgentError ``control.refused`` where the SuperLink does not know it.
    """
    with contextlib.closing(connect()) as api:
        found = api.list_runs(CALL_TIMEOUT_S, run_id=journal.run_id)
        run = next((run for run in found if run.run_id == journal.run_id), None)
        if run is None:
            raise ControlRefusedError(
                "control.refused", f"The SuperLink has no run {journal.run_id}"
            )
        timeout_s = look_s if run.active else LAST_LOOK_S
        for piece in api.stream_logs(journal.run_id, journal.latest, timeout_s):
            journal.add(piece)
    return run
