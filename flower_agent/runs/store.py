"""The files of runs, below ``/var/lib/flower-agent/runs/``.

``context.json`` and ``context.fab``: the run of the context. ``RUN/``: ``log.txt`` and
``metrics.jsonl``, what a run's ServerApp wrote and its metrics of each round; ``submitted.json``,
who submitted which app, where this VM knows; ``outputs/`` and ``outputs.json``, the files that it
left, with sizes and SHA-256; ``run.json``, how it ended.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import structlog

from flower_agent import files
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.flower.control_messages import Log, RunInfo
from flower_agent.flower.exit_codes import strip_ansi
from flower_agent.model.errors import AgentError
from flower_agent.runs import rounds, submission
from flower_agent.runs.outcome import Outcome
from flower_agent.runs.rounds import Progress
from flower_agent.runs.submission import Submission

log = structlog.get_logger()

LOG_BYTES = 64 * 1024 * 1024
"""Most kept bytes of one run's log; the rest is only read for its rounds."""

RUNS = 20
"""Most ended runs with files; the oldest are removed first."""

NOTED = 500
"""Ended runs of which at least ``run.json`` stays."""

_RECORD_BYTES = 16 << 20
_BUNDLE_BYTES = 16 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """An ended run that is kept."""

    name: str
    ended_at: float
    """Unix seconds."""

    size_bytes: int
    """Bytes of its outputs and its log."""


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
        self._make()
        if bundle is not None:
            files.write_atomic(self._bundle, bundle, 0o600)
        files.write_atomic(self._record, submission.dump(known), 0o600)

    def bundle(self, known: Submission) -> bytes | None:
        """Return the bundle of the submission; None if it is missing or changed."""
        data = files.read(self._bundle, _BUNDLE_BYTES)
        whole = data is not None and hashlib.sha256(data).hexdigest() == known.bundle
        return data if whole else None

    def journal(self, run_id: str) -> "RunLog":
        """Begin the files of a run."""
        return RunLog(self._place(run_id), run_id)

    def submitted(self, run_id: str, document: Mapping[str, Any]) -> None:
        """Write who submitted a run, and what. Raises AgentError ``state.unwritable``."""
        data = json.dumps(dict(document), indent=1, sort_keys=True).encode() + b"\n"
        files.write_atomic(self._place(run_id) / "submitted.json", data, 0o600)

    def read(self, run_id: str, name: str) -> dict[str, Any]:
        """Return a JSON document of a run; empty if it is missing or unreadable."""
        try:
            data = files.read(self.directory / run_id / f"{name}.json", _RECORD_BYTES)
            found = json.loads(data) if data is not None else {}
        except (AgentError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def ended(self, run_id: str) -> dict[str, Any]:
        """Return ``run.json`` of a run that has ended; empty while it has not."""
        found = self.read(run_id, "run")
        return found if found.get("end") else {}

    def settled(self, run_id: str) -> bool:
        """Return whether a run's outputs on this VM are saved."""
        place = self.directory / run_id
        listed = (place / "outputs.json").exists() or not (place / "outputs").exists()
        return listed and not (self.directory / "live" / run_id).exists()

    def kept(self) -> tuple[Kept, ...]:
        """Return the ended runs that have more than their ``run.json``."""
        found = []
        for place in self._places():
            try:
                ended_at = (place / "run.json").stat().st_mtime
            except OSError:
                continue
            if not (place / "log.txt").exists() and not (place / "outputs").exists():
                continue
            outputs = self.read(place.name, "outputs").get("bytes")
            size = outputs if isinstance(outputs, int) else 0
            found.append(Kept(place.name, ended_at, size + _size(place / "log.txt")))
        return tuple(found)

    def clear(self, run_id: str, why: str) -> None:
        """Remove a run's files except ``run.json``, which then contains the reason.

        Raises AgentError ``state.unwritable``.
        """
        place = self.directory / run_id
        with files.writing(place):
            for path in (p for p in place.iterdir() if p.name != "run.json"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)  # follows no link
                else:
                    path.unlink()
        if self.ended(run_id):
            self._end(run_id, {**self.read(run_id, "run"), "outputs_gone": why})

    def forget(self, most: int = NOTED) -> None:
        """Remove the directories of all but the newest `most` ended runs."""
        ended = [path for path in self._places() if (path / "run.json").exists()]
        ended.sort(key=lambda path: (path / "run.json").stat().st_mtime)
        for place in ended[: max(len(ended) - most, 0)]:
            shutil.rmtree(place, ignore_errors=True)

    def end(
        self, run: RunInfo, outcome: Outcome, progress: Progress, more: Mapping[str, Any]
    ) -> None:
        """Write how a run ended. Raises AgentError ``state.unwritable``."""
        self._end(
            run.run_id,
            {
                "schema": 1,
                **dataclasses.asdict(run),
                "end": outcome.end,
                "cause": outcome.cause,
                "shown": outcome.shown,
                "rounds": [rounds.row(each) for each in progress.rounds],
                **more,
            },
        )

    def _end(self, run_id: str, document: Mapping[str, Any]) -> None:
        text = json.dumps(dict(document), indent=1, sort_keys=True)
        files.write_atomic(self._place(run_id) / "run.json", text.encode() + b"\n", 0o600)

    def _places(self) -> list[pathlib.Path]:
        try:
            return [path for path in self.directory.iterdir() if path.name.isdecimal()]
        except OSError:
            return []

    def _make(self) -> None:
        files.directory(self.directory, 0o710, group=FLOWER_UID)

    def _place(self, run_id: str) -> pathlib.Path:
        """Make a run's directory; its outputs are moved into it by their owner."""
        place = self.directory / run_id
        self._make()
        files.directory(place, 0o770, group=FLOWER_UID)
        return place


def prunable(kept: tuple[Kept, ...], limit_bytes: int, most: int = RUNS) -> tuple[str, ...]:
    """Return the ended runs to remove, the oldest first. Pure."""
    newest = sorted(kept, key=lambda run: run.ended_at, reverse=True)
    total, found = 0, []
    for place, run in enumerate(newest):
        total += run.size_bytes
        # The newest stays, whatever it takes: the launcher held it to the limit.
        if place >= most or (total > limit_bytes and place > 0):
            found.append(run.name)
    return tuple(reversed(found))


class RunLog:
    """Log and metrics of one run. Each agent that follows the run writes them again."""

    def __init__(self, place: pathlib.Path, run_id: str) -> None:
        self.run_id = run_id
        self.progress = Progress()
        self.latest = 0.0
        """Unix seconds up to which the log was read."""

        self._log = place / "log.txt"
        self._metrics = place / "metrics.jsonl"
        self._size = 0
        self._waiting = 0
        """Rounds that are not in the file yet."""

    def add(self, piece: Log) -> None:
        """Take a piece of the log. Raises AgentError ``state.unwritable``."""
        data = strip_ansi(piece.text).encode()
        with files.writing(self._log):
            with self._log.open("ab" if self._size else "wb") as file:
                file.write(data[: max(LOG_BYTES - self._size, 0)])
            self._log.chmod(0o600)
        self._size += len(data)
        self.latest = max(self.latest, piece.latest)
        before = self.progress.rounds
        self.progress = rounds.follow(self.progress, piece.text)
        if self.progress.rounds != before:
            self._waiting += max(len(self.progress.rounds) - len(before), 1)
        # A hundredth more rounds than were written: the whole costs no square of them.
        if self._waiting and self._waiting >= len(self.progress.rounds) // 100:
            self.flush()

    def flush(self) -> None:
        """Write the metrics as they are now. Raises AgentError ``state.unwritable``."""
        if self._waiting:
            data = rounds.document(self.progress)
            files.write_atomic(self._metrics, data, 0o600, durable=False)
            self._waiting = 0


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
