"""Whether a peer that a connection is held to is alive; looks run beside the loop.

An established connection says little (`exchange`), so the peer is asked every ten seconds. One look
that fails is no proof: a busy machine may be slow. Two in a row, fifteen seconds from the first's
begin, are; worst case this is known 27 s after the peer fell silent.
"""

import random
from collections.abc import Callable
from typing import Protocol

from flower_agent.background import AT_ONCE, NEVER, Background, Threads
from flower_agent.errors import AgentError
from flower_agent.probes import exchange
from flower_agent.probes.exchange import Peer

PERIOD_S = (8.0, 10.0)
AGAIN_S = 4.0
PROVEN_S = 15.0
_COUNT = frozenset({"peer.mute", "peer.mtu", "peer.lost"})


class Exchange(Protocol):
    """One look, as `exchange.look` does it."""

    def __call__(self, peer: Peer, *, doubtful: bool) -> None:
        """Return when the peer answered. Raises AgentError ``peer.…``."""


class Liveness:
    """One peer at a time; `judge` returns at once.

    The loop is woken by bad news and by the end of it: all being well, an answer waits for the next
    turn, so that the looks make no more turns than there are.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        *,
        rng: random.Random,
        scale: float = 1.0,
        look: Exchange = exchange.look,
    ) -> None:
        self._looks: Background[Peer, None] = Background(
            Threads(self._ended),
            "peer-look",
            lambda error, _: AGAIN_S * scale if _counts(error) else 0.0,
            good_for_s=0.0,
        )
        self._random = rng
        self._wake = wake
        self._exchange = look
        self._news = False
        self._scale = scale
        self._peer: Peer | None = None
        self._not_before = AT_ONCE
        self._failing_since: float | None = None
        self._trouble: AgentError | None = None

    def judge(self, peer: Peer, now: float) -> AgentError | None:
        """Return ``peer.mute``, ``peer.mtu`` or ``peer.lost`` while that is proven of `peer`."""
        if peer != self._peer:
            self._peer, self._failing_since, self._trouble = peer, None, None
            self._not_before = AT_ONCE
        began_at = self._looks.began_at
        ended = self._looks.take(peer, now)
        if ended is not None:
            self._note(ended.error, began_at, now)
        doubtful = self._failing_since is not None
        if now >= self._due_at:
            self._looks.start(peer, lambda: self._look(peer, doubtful=doubtful), now)
        return self._trouble

    def wait_s(self, now: float) -> float:
        """Return the seconds until a look is due."""
        return NEVER if self._looks.pending else max(self._due_at - now, 0.0)

    @property
    def _due_at(self) -> float:
        return max(self._looks.due_at, self._not_before)

    def _look(self, peer: Peer, *, doubtful: bool) -> None:
        """Do one look; in a thread beside the loop, which alone has `_news`."""
        self._news = True
        self._exchange(peer, doubtful=doubtful)
        self._news = doubtful

    def _ended(self) -> None:
        if self._news:
            self._wake()

    def _note(self, error: AgentError | None, began_at: float, now: float) -> None:
        if not _counts(error):
            self._failing_since = self._trouble = None
            # From its begin: the answer may have waited for this turn for as long as a period.
            self._not_before = began_at + self._random.uniform(*PERIOD_S) * self._scale
        elif self._failing_since is None:
            self._failing_since = began_at
        elif now - self._failing_since >= PROVEN_S * self._scale:
            self._trouble = error


def _counts(error: AgentError | None) -> bool:
    """Return whether an error says something of the peer."""
    return error is not None and error.finding.code in _COUNT
