"""The run of the context: its submission, its next step, its text, and when to try again. Pure.

One small JSON file keeps it (``runs/context.json``), so that a reboot submits nothing again: the
key of what the context asked for, the commit that it meant then, and the run that came of it.
"""

import dataclasses
import datetime
import enum
import hashlib
import json
from collections.abc import Callable, Collection

from flower_agent.config.settings import Settings
from flower_agent.config.types import AppSource
from flower_agent.flower.control_messages import RunInfo, Scalar
from flower_agent.model.errors import (
    AgentError,
    CloneError,
    ControlDatabaseError,
    ControlRefusedError,
    ControlUnavailableError,
    DockerDownError,
    Finding,
)
from flower_agent.runs import outcome

SLACK_S = 5.0
"""Both use the same clock, but read it at different moments."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The requested run: its prepared app and its state."""

    key: str
    """Identifies the requested run: `key_of`."""

    vmid: str | None
    """The VM that submitted it: a VM with a cloned disk submits its own run."""

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
    """The app's dependencies (PEP 508)."""

    asked_at: float | None = None
    """Unix seconds of the request to the SuperLink, which may have started it without an answer."""

    run_id: str | None = None
    end: str = ""
    """``finished``, ``stopped``, ``failed`` or ``lost``; empty while it may still run."""

    shown: str = ""
    """The reason of a failure for other VMs; the rest is in ``run.json``."""

    @property
    def active(self) -> bool:
        """Return whether its run was submitted and has not ended."""
        return self.run_id is not None and not self.end


class Due(enum.StrEnum):
    """The next step of the context's run."""

    PREPARE = "prepare"
    """Fetch the app and build its bundle."""

    WAIT = "wait"
    """Too few SuperNodes are connected."""

    IMAGE = "image"
    """The app's packages are missing here: its ServerApp would fail at once."""

    SUBMIT = "submit"
    FOLLOW = "follow"
    NOTHING = "nothing"


def key_of(settings: Settings, source: AppSource) -> str:
    """Return a key of the requested run; a new token does not change the key.

    To set a variable to what it is anyway is a change: the app's own default may be another.
    """
    passed = "FL_MIN_CLIENTS" in settings.given
    asked = {
        "source": str(source),
        "rounds": settings.num_rounds,
        "strategy": settings.strategy,
        "clients": [settings.min_clients, passed],
        "config": settings.run_config,
    }
    return _digest(asked)


def carried(known: Submission, settings: Settings, source: AppSource) -> Submission:
    """Return a submission of an older agent with the present key of the same context.

    Older agents passed 3 rounds and FedAvg where nothing was set, and their key said so. What they
    submitted, or asked for, is not submitted again; a run that was only prepared is prepared again.
    """
    before = (
        str(source),
        3 if settings.num_rounds is None else settings.num_rounds,
        "FedAvg" if settings.strategy is None else settings.strategy,
        settings.min_clients,
        settings.run_config,
    )
    if known.key != _digest(before) or (known.run_id is None and known.asked_at is None):
        return known
    return dataclasses.replace(known, key=key_of(settings, source))


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
    """Return the run of an unanswered request, by its bundle and time."""
    if known.asked_at is None:
        return None
    since = known.asked_at - SLACK_S
    mine = [run for run in runs if run.fab_hash == known.bundle and _began(run) >= since]
    return mine[-1].run_id if mine else None


def words(known: Submission) -> str:
    """Return the end of a run that has ended; ``lost`` is one that the SuperLink does not know."""
    if known.end == "lost":
        return "failed: the SuperLink does not know the run any more"
    return outcome.words(known.end, known.shown)


def dump(known: Submission) -> bytes:
    """Return the file's content."""
    document = {"schema": 1, **dataclasses.asdict(known)}
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def load(data: bytes) -> Submission:
    """Return the submission in a file's content. Raises ValueError for anything else.

    Fields that another version of the agent wrote are left out, those it did not know are unset:
    what has no key is another submission than the context asks for.
    """
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            raise TypeError(f"{document!r} is not an object")  # noqa: TRY301  # as what is wrong inside
        known = [f for f in dataclasses.fields(Submission) if f.name in document]
        fields = {f.name: document[f.name] for f in known}
        for name in fields.keys() & {"overrides", "unread"}:
            fields[name] = tuple((str(key), value) for key, value in fields[name])
        fields["dependencies"] = tuple(map(str, fields.get("dependencies", ())))
        texts = ("key", "source", "commit", "app", "bundle", "end", "shown")
        fields |= {name: _text(fields.get(name, "")) for name in texts}
        if fields.get("asked_at") is not None:
            fields["asked_at"] = float(fields["asked_at"])
        if fields.get("run_id") is not None:
            fields["run_id"] = str(int(fields["run_id"]))
        vmid = fields.get("vmid")
        fields["vmid"] = None if vmid is None else str(vmid)
        return Submission(**fields)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"not a submission: {error!r}") from error


def _digest(asked: object) -> str:
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _began(run: RunInfo) -> float:
    try:
        return datetime.datetime.fromisoformat(run.pending_at).timestamp()
    except ValueError:
        return float("inf")


AGAIN_S = 30.0
AGAIN_MAX_S = 600.0

_PASSING = (CloneError, ControlUnavailableError, ControlDatabaseError, DockerDownError)
"""What may well be over soon; the rest wants somebody's hand, and is tried seldom."""


def finding(error: AgentError) -> Finding:
    """Return what a failure is called where it concerns the run of the context."""
    if isinstance(error, ControlRefusedError):
        return Finding("run.refused", error.finding.message)
    return error.finding


def policy(scale: float) -> Callable[[AgentError | None, int], float]:
    """Return the pauses after failures: they double where it may pass by itself."""

    def pause(error: AgentError | None, failures: int) -> float:
        if error is None:
            return 0.0
        if not isinstance(error, _PASSING):
            return AGAIN_MAX_S * scale
        return min(AGAIN_S * 2.0 ** min(failures - 1, 10), AGAIN_MAX_S) * scale

    return pause
