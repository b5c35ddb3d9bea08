"""When a container that ended may be started again: at once, then later each time.

The first restart is at once, the second waits 10 s, doubling to 5 minutes. After ten minutes of run
time the count starts again. Each cause has its own count: a restart of Docker and a crash of the
program are not one loop.
"""

import dataclasses
import datetime
from collections.abc import Callable, Mapping

from flower_agent.docker.containers import Existing
from flower_agent.model.errors import AgentError

FIRST_DELAY_S = 10.0
LONGEST_DELAY_S = 300.0
FORGIVEN_AFTER_S = 600.0
REFUSED = "refused"
"""The cause if Docker refuses the start."""

LOOP_AT = 3
"""From this many failures on the error is a crash loop."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """How often a container ended, and when it may start again."""

    failures: int
    """Ends with one cause and less than ten minutes of run time between them."""

    ended_at: datetime.datetime | None
    """Docker's time of the last counted end."""

    not_before: float
    """Monotonic seconds of the next allowed start."""

    cause: str = ""
    """Docker's information about the last end; empty before the first."""

    others: tuple[tuple[str, int], ...] = ()
    """Ends of other causes in that time, by cause."""

    @property
    def total(self) -> int:
        """Ends of every cause."""
        return self.failures + sum(number for _, number in self.others)


def count(
    known: Mapping[str, Trouble],
    have: tuple[Existing, ...],
    *,
    now: float,
    scale: float = 1.0,
) -> dict[str, Trouble]:
    """Return the troubles after a look at `have`: each new end counts once.

    `now` is monotonic seconds; `scale` shortens every wait in tests.
    """
    troubles = dict(known)
    for container in have:
        if container.status not in ("exited", "dead") or not container.mine:
            continue
        before = troubles.get(container.name)
        if before and before.ended_at == container.finished_at:
            continue
        lived = _lived_s(container) / scale
        kept = before if lived < FORGIVEN_AFTER_S else None
        cause = f"{container.exit_code}{' of memory' if container.oom_killed else ''}"
        failures, others = _counted(kept, cause)
        not_before = now + delay_s(failures) * scale
        ended_at = container.finished_at
        troubles[container.name] = Trouble(failures, ended_at, not_before, cause, others)
    return troubles


def waits(known: Trouble | None, new: Trouble, *, not_before: float) -> Trouble:
    """Return the trouble after an end that is no failure, but a wait for a peer."""
    known = known or Trouble(0, None, 0.0)
    return dataclasses.replace(known, ended_at=new.ended_at, not_before=not_before)


def refused(known: Trouble | None, *, now: float, scale: float = 1.0) -> Trouble:
    """Return the trouble after Docker refused a start; a refusal counts like an end."""
    failures, others = _counted(known, REFUSED)
    ended_at = known.ended_at if known else None
    return Trouble(failures, ended_at, now + delay_s(failures) * scale, REFUSED, others)


def delay_s(failures: int) -> float:
    """Return the seconds to wait after that many ends in a row."""
    if failures <= 1:
        return 0.0
    return min(FIRST_DELAY_S * 2.0 ** min(failures - 2, 16), LONGEST_DELAY_S)


def policy(scale: float) -> Callable[[AgentError | None, int], float]:
    """Return growing pauses for work in the background.

    An error that needs a change is tried again every five minutes.
    """

    def pause(error: AgentError | None, failures: int) -> float:
        if error is None:
            return 0.0
        return (delay_s(failures + 1) if error.retryable else LONGEST_DELAY_S) * scale

    return pause


def _counted(known: Trouble | None, cause: str) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Return the count of `cause` after one more end, and those of the other causes."""
    counts = dict(known.others) if known else {}
    if known and known.failures:
        counts[known.cause] = known.failures
    number = counts.pop(cause, 0) + 1
    return number, tuple(sorted(counts.items()))


def _lived_s(container: Existing) -> float:
    if container.started_at is None or container.finished_at is None:
        return 0.0
    return (container.finished_at - container.started_at).total_seconds()
