"""The run of the context: what was submitted, what is due, and how it reads. Pure.

One small JSON file keeps it (``runs/context.json``), so that a reboot submits nothing again: the
key of what the context asked for, the commit that it meant then, and the run that came of it.
"""

import dataclasses
import datetime
import enum
import hashlib
import json
from collections.abc import Collection

from flower_agent.config.app_source import Source
from flower_agent.config.settings import Settings
from flower_agent.probes.control import RunInfo, RunStatus, Scalar

SLACK_S = 5.0
"""The clock of the SuperLink and the agent's are one, their reading is not."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What the context asked for, made ready, and what became of it."""

    key: str
    """What the context asked for: `key_of`."""

    vmid: str | None
    """The VM that made it: a cloned disk submits its own."""

    source: str
    """Repository, ref and subdirectory, without credentials."""

    commit: str
    app: str
    bundle: str
    """Hex SHA-256 of the bundle in ``runs/context.fab``; Flower's hash of it too."""

    overrides: tuple[tuple[str, Scalar], ...] = ()
    unread: tuple[tuple[str, str], ...] = ()
    """Messages and hints of variables that the app does not read."""

    dependencies: tuple[str, ...] = ()
    """What the app wants installed (PEP 508)."""

    asked_at: float | None = None
    """Unix seconds at which the SuperLink was asked to start it; it may have, even unanswered."""

    run_id: str | None = None
    end: str = ""
    """``finished``, ``stopped``, ``failed`` or ``lost``; empty while it may still run."""

    cause: str = ""
    """Why it failed."""

    @property
    def active(self) -> bool:
        """Tell whether its run was submitted and has not ended."""
        return self.run_id is not None and not self.end


class Due(enum.StrEnum):
    """What stands between the context and its run."""

    PREPARE = "prepare"
    """Fetch the app and build its bundle."""

    WAIT = "wait"
    """Too few SuperNodes are connected."""

    IMAGE = "image"
    """What the app wants is not here yet: its ServerApp would fail at once."""

    SUBMIT = "submit"
    FOLLOW = "follow"
    NOTHING = "nothing"


def key_of(settings: Settings, source: Source) -> str:
    """Return what changes when the context asks for another run; a new token is no change."""
    asked = (
        str(source),
        settings.num_rounds,
        settings.strategy,
        settings.min_clients,
        settings.run_config,
    )
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def due(
    known: Submission | None,
    key: str,
    vmid: str | None,
    *,
    online: int,
    least: int,
    short: bool = False,
) -> Due:
    """Return what to do next.

    A run that is active is followed to its end before a changed context is submitted. None is
    submitted while the image for its app is `short` of something.
    """
    if known is None:
        return Due.PREPARE
    if known.active:
        return Due.FOLLOW
    other_vm = None not in (vmid, known.vmid) and known.vmid != vmid
    if known.key != key or other_vm:
        return Due.PREPARE
    if known.run_id is not None:
        return Due.NOTHING
    if online < least:
        return Due.WAIT
    return Due.IMAGE if short else Due.SUBMIT


def awaited(online: int, least: int) -> str:
    """Return what a prepared run waits for: ``waiting 1 of 2 nodes``, or its app's image."""
    return f"waiting {online} of {least} nodes" if online < least else "waiting for the app image"


def adopted(known: Submission, runs: Collection[RunInfo]) -> str | None:
    """Return the run that an unanswered request started after all: of its bundle and since then."""
    if known.asked_at is None:
        return None
    since = known.asked_at - SLACK_S
    mine = [run for run in runs if run.fab_hash == known.bundle and _began(run) >= since]
    return mine[-1].run_id if mine else None


def after(known: Submission, run: RunInfo, cause: str) -> Submission:
    """Return the submission as `run` shows it; `cause` is what its log says of a failure."""
    if run.active:
        return known
    if run.sub_status == "completed":
        return dataclasses.replace(known, end="finished")
    if run.sub_status == "stopped":
        return dataclasses.replace(known, end="stopped")
    why = cause or run.details or "its log does not say why"
    return dataclasses.replace(known, end="failed", cause=why)


def words(known: Submission, run: RunInfo | None, progress: str) -> str:
    """Return the state of a submitted run: ``running 3 of 10``, ``finished``, ``failed: …``."""
    if known.end in ("failed", "lost"):
        return f"failed: {known.cause or 'the SuperLink does not know it any more'}"
    if known.end:
        return known.end
    if progress or (run is not None and run.status is RunStatus.RUNNING):
        return f"running {progress}".rstrip()
    return str(run.status) if run is not None else "submitted"


def dump(known: Submission) -> bytes:
    """Return the file's content."""
    document = {"schema": 1, **dataclasses.asdict(known)}
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def load(data: bytes) -> Submission:
    """Return the submission in a file's content. Raises ValueError for anything else."""
    try:
        document = json.loads(data)
        fields = {f.name: document[f.name] for f in dataclasses.fields(Submission)}
        for name in ("overrides", "unread"):
            fields[name] = tuple((str(key), value) for key, value in fields[name])
        fields["dependencies"] = tuple(map(str, fields["dependencies"]))
        texts = ("key", "source", "commit", "app", "bundle", "end", "cause")
        fields |= {name: _text(fields[name]) for name in texts}
        if fields["asked_at"] is not None:
            fields["asked_at"] = float(fields["asked_at"])
        if fields["run_id"] is not None:
            fields["run_id"] = str(int(fields["run_id"]))
        fields["vmid"] = None if fields["vmid"] is None else str(fields["vmid"])
        return Submission(**fields)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"not a submission: {error!r}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _began(run: RunInfo) -> float:
    try:
        return datetime.datetime.fromisoformat(run.pending_at).timestamp()
    except ValueError:
        return float("inf")
