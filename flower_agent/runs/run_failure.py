"""When what kept the run of the context from being submitted is tried again. Pure."""

from collections.abc import Callable

from flower_agent.errors import AgentError, Finding

AGAIN_S = 30.0
AGAIN_MAX_S = 600.0

_PASSING = ("run.clone", "control.unavailable", "control.database", "docker.down")
"""What may well be over soon; the rest wants somebody's hand, and is tried seldom."""


def finding(error: AgentError) -> Finding:
    """Return what a failure is called where it concerns the run of the context."""
    found = error.finding
    return Finding("run.refused", found.message) if found.code == "control.refused" else found


def policy(scale: float) -> Callable[[AgentError | None, int], float]:
    """Return the pauses after failures: they double where it may pass by itself."""

    def pause(error: AgentError | None, failures: int) -> float:
        if error is None:
            return 0.0
        if finding(error).code not in _PASSING:
            return AGAIN_MAX_S * scale
        return min(AGAIN_S * 2.0 ** min(failures - 1, 10), AGAIN_MAX_S) * scale

    return pause
