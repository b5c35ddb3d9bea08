"""What is kept of runs, below ``/var/lib/flower-agent/runs/``.

``context.json`` and ``context.fab``: the run of the context. ``RUN/log.txt``, ``RUN/metrics.jsonl``
and ``RUN/run.json``: what a run's ServerApp wrote, its metrics of each round, and how it ended.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil

import structlog

from flower_agent import files
from flower_agent.errors import AgentError
from flower_agent.probes.control import Log, RunInfo

from . import rounds, submission
from .rounds import Progress
from .submission import Submission

LOG_BYTES = 64 * 1024 * 1024
"""What is kept of one run's log; the rest is only read for its rounds."""

RUNS = 20
"""Runs that are kept; the oldest make room."""

_RECORD_BYTES = 1 << 20
_BUNDLE_BYTES = 16 * 1024 * 1024

log = structlog.get_logger()


class RunFiles:
    """The directory ``runs/``."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self._record = directory / "context.json"
        self._bundle = directory / "context.fab"

    def load(self) -> Submission | None:
        """Return the run of the context; a damaged file is logged and counts as none."""
        try:
            data = files.read(self._record, _RECORD_BYTES)
            return submission.load(data) if data is not None else None
        except (AgentError, ValueError, RecursionError) as error:
            log.warning("run.state_corrupt", path=str(self._record), reason=str(error))
            return None

    def keep(self, known: Submission, bundle: bytes | None = None) -> None:
        """Write the run of the context, and its bundle first. Raises AgentError."""
        files.directory(self.directory, 0o700)
        if bundle is not None:
            files.write_atomic(self._bundle, bundle, 0o600)
        files.write_atomic(self._record, submission.dump(known), 0o600)

    def bundle(self, known: Submission) -> bytes | None:
        """Return the bundle of the submission; None where it is not there as it was."""
        data = files.read(self._bundle, _BUNDLE_BYTES)
        whole = data is not None and hashlib.sha256(data).hexdigest() == known.bundle
        return data if whole else None

    def journal(self, run_id: str) -> "Journal":
        """Begin the files of a run anew, and let the oldest runs make room."""
        place = self.directory / run_id
        files.directory(self.directory, 0o700)
        files.directory(place, 0o700)
        with files.writing(self.directory):
            kept = [path for path in self.directory.iterdir() if path.name.isdecimal()]
            old = sorted((p for p in kept if p != place), key=lambda p: p.stat().st_mtime)
            for path in old[: max(len(kept) - RUNS, 0)]:
                shutil.rmtree(path, ignore_errors=True)
        return Journal(place, run_id)


class Journal:
    """The files of one run. Its log is written anew by each agent that follows the run."""

    def __init__(self, place: pathlib.Path, run_id: str) -> None:
        self.run_id = run_id
        self.progress = Progress()
        self.latest = 0.0
        """Unix seconds up to which the log was read."""

        self._log = place / "log.txt"
        self._metrics = place / "metrics.jsonl"
        self._end = place / "run.json"
        self._size = 0

    def add(self, piece: Log) -> None:
        """Take a piece of the log. Raises AgentError ``state.unwritable``."""
        data = piece.text.encode()
        with files.writing(self._log):
            with self._log.open("ab" if self._size else "wb") as file:
                file.write(data[: max(LOG_BYTES - self._size, 0)])
            self._log.chmod(0o600)
        self._size += len(data)
        self.latest = max(self.latest, piece.latest)
        before = self.progress.rounds
        self.progress = rounds.follow(self.progress, piece.text)
        if self.progress.rounds != before:
            data = rounds.document(self.progress)
            files.write_atomic(self._metrics, data, 0o600, durable=False)

    def end(self, run: RunInfo, known: Submission) -> None:
        """Write how the run ended."""
        more = {"end": known.end, "cause": known.cause, "app": known.app}
        whence = {"source": known.source, "commit": known.commit}
        document = {**dataclasses.asdict(run), **more, **whence, "config": dict(known.overrides)}
        text = json.dumps(document, indent=1, sort_keys=True)
        files.write_atomic(self._end, text.encode() + b"\n", 0o600)
