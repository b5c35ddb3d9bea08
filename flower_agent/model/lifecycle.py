"""The VM's life as one small state machine: starting → ready ⇄ degraded, failed from any. Pure."""

import dataclasses
import datetime
import enum

from flower_agent.model.errors import Finding


class LifeState(enum.StrEnum):
    """What the operator and OneGate see."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"


class Phase(enum.StrEnum):
    """What a start waits for, in order."""

    CONTEXT = "context"
    DOCKER = "docker"
    DISCOVER = "discover"
    TLS = "tls"
    IMAGE = "image"
    DATA = "data"
    CONTAINER = "container"
    HEALTH = "health"
    ENROL = "enrol"
    PEER = "peer"


@dataclasses.dataclass(frozen=True, slots=True)
class Unmet:
    """The first phase that is not complete."""

    phase: Phase

    finding: Finding | None = None
    """The reason; None if the step only needs a moment."""

    fatal: bool = False
    """Needs a change: a bad value, a refusal."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """State and phase with their ages."""

    state: LifeState
    since: datetime.datetime

    phase: Phase | None
    """None when ready."""

    phase_since: datetime.datetime

    start_monotonic: float
    """When the current start began, for the time limit."""

    was_ready: bool = False
    """Was ready since the start of the agent or since its settings changed."""

    error: Finding | None = None

    cause: Finding | None = None
    """What is not met, where `error` says that it took too long."""


def born(now: datetime.datetime, monotonic: float) -> Life:
    """Return the life of a new agent."""
    return Life(
        state=LifeState.STARTING,
        since=now,
        phase=Phase.CONTEXT,
        phase_since=now,
        start_monotonic=monotonic,
    )


def step(
    life: Life,
    unmet: Unmet | None,
    *,
    now: datetime.datetime,
    monotonic: float,
    ready_timeout_s: float,
) -> Life:
    """Return the life after one cycle that found `unmet` (None: everything works)."""
    state, error = _judge(life, unmet, monotonic - life.start_monotonic, ready_timeout_s)
    phase = unmet.phase if unmet else None
    return dataclasses.replace(
        life,
        state=state,
        since=life.since if state is life.state else now,
        phase=phase,
        phase_since=life.phase_since if phase is life.phase else now,
        was_ready=life.was_ready or state is LifeState.READY,
        error=error,
        cause=unmet.finding if unmet else None,
    )


def restarted(life: Life, monotonic: float) -> Life:
    """Return the life after new settings: a start begins, and its time limit starts again."""
    return dataclasses.replace(life, start_monotonic=monotonic, was_ready=False)


def _judge(
    life: Life, unmet: Unmet | None, elapsed_s: float, ready_timeout_s: float
) -> tuple[LifeState, Finding | None]:
    if unmet is None:
        return LifeState.READY, None
    # An error that needs a change is a failure at once, also of a VM that was ready.
    if unmet.fatal:
        return LifeState.FAILED, unmet.finding
    # The time limit is for starts only: a VM that was ready stays degraded and keeps trying.
    if life.was_ready:
        return LifeState.DEGRADED, unmet.finding
    if elapsed_s <= ready_timeout_s:
        return LifeState.STARTING, unmet.finding
    return LifeState.FAILED, _timed_out(unmet, ready_timeout_s)


def _timed_out(unmet: Unmet, ready_timeout_s: float) -> Finding:
    because = f": {unmet.finding}" if unmet.finding else ""
    return Finding(
        "ready.timeout",
        f"not ready after {ready_timeout_s:.0f} s, still in phase {unmet.phase}{because}",
        unmet.finding.hint if unmet.finding else "",
    )
