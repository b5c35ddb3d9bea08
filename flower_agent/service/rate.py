"""How many look-ups a second a SuperLink asks of OneGate, by how OneGate answers. Pure.

Additive increase, multiplicative decrease (Chiu and Jain, 1989). One look-up follows the other, so
a OneGate that takes longer than the time between two of them does not keep up: that answer is slow,
and the rate is halved before the next. Each other answer adds its part of `GAIN` a second; a
failure begins again at the least.

No two look-ups are under way at the same time. Many OneGates answer one request after the other
(thin has one thread): a second look-up would only wait there, beside the reports of the VMs.
"""

import dataclasses
from typing import Self

LEAST = 5.0
MOST = 200.0
FIRST = 20.0
GAIN = 20.0
"""Look-ups a second that a second of good answers adds."""

MOST_AT_ONCE = 50
"""Look-ups before the loop sees what they found: it registers so many keys in one turn at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """The rate of the next look-up."""

    a_second: float = FIRST

    @property
    def batch(self) -> int:
        """Return how many look-ups follow each other before the loop sees what they found."""
        return min(int(self.a_second), MOST_AT_ONCE)

    def answered(self, taken_s: float) -> Self:
        """Return the rate after an answer that took so long."""
        if taken_s > 1.0 / self.a_second:
            return type(self)(max(self.a_second / 2.0, LEAST))
        return type(self)(min(self.a_second + GAIN / self.a_second, MOST))

    def failed(self) -> Self:
        """Return the rate after a request that OneGate did not answer, or refused."""
        return type(self)(LEAST)

    def pause_s(self, taken_s: float) -> float:
        """Return the seconds until the next look-up, after one that took so long."""
        return max(1.0 / self.a_second - taken_s, 0.0)
