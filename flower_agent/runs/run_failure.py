"""When what kept the run of the context from being submitted is tried again. Pure."""

import dataclasses

from flower_agent.errors import AgentError, Finding

AGAIN_S = 30.0
AGAIN_MAX_S = 600.0

_PASSING = ("run.clone", "control.unavailable", "control.database", "docker.down")
"""What may well be over soon; the rest wants somebody's hand, and is tried seldom."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why the run of the context is not under way."""

    key: str
    """What the context asked for: another context is tried at once."""

    finding: Finding
    count: int
    """Failures in a row before this one."""

    again_at: float
    """Monotonic seconds."""

    def rests(self, key: str, now: float) -> bool:
        """Tell whether nothing is tried now."""
        return key == self.key and now < self.again_at


def failed(
    last: Failure | None, key: str, error: AgentError, now: float, *, scale: float
) -> Failure:
    """Return the failure after `last`; pauses double where it may pass by itself."""
    found = error.finding
    if found.code == "control.refused":
        found = Finding("run.refused", found.message)
    count = last.count + 1 if last is not None and last.key == key else 0
    pause_s = AGAIN_MAX_S
    if found.code in _PASSING:
        pause_s = min(AGAIN_S * 2.0 ** min(count, 10), AGAIN_MAX_S)
    return Failure(key, found, count, now + pause_s * scale)
