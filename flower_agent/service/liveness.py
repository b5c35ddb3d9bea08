"""Whether a peer that a connection is held to is alive; looks run beside the loop.

An established connection says little (`exchange`), so the peer is asked every ten seconds. One look
that fails is no proof: a busy machine may be slow. Two in a row, fifteen seconds from the first's
begin, are; worst case this is known 27 s after the peer fell silent.
"""

import random
from collections.abc import Callable
from typing import Protocol

from flower_agent.errands import Errands
from flower_agent.errors import AgentError
from flower_agent.probes import exchange
from flower_agent.probes.exchange import Peer

PERIOD_S = (8.0, 10.0)
AGAIN_S = 4.0
PROVEN_S = 15.0
_ERRAND = "peer-look"
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
        self._errands = Errands(self._ended)
        self._wake = wake
        self._exchange = look
        self._news = False
        self._random = rng
        self._scale = scale
        self._peer: Peer | None = None
        self._asked: tuple[Peer | None, float] = (None, 0.0)
        self._next = float("-inf")
        self._failing_since: float | None = None
        self._trouble: AgentError | None = None

    def judge(self, peer: Peer, now: float) -> AgentError | None:
        """Return ``peer.mute``, ``peer.mtu`` or ``peer.lost`` while that is proven of `peer`."""
        if peer != self._peer:
            self._peer, self._next = peer, float("-inf")
            self._failing_since = self._trouble = None
        done = self._errands.take(_ERRAND)
        if done is not None and self._asked[0] == peer:
            self._note(done.error, now)
        doubtful = self._failing_since is not None
        if now >= self._next and self._errands.start(
            _ERRAND, lambda: self._look(peer, doubtful=doubtful)
        ):
            self._asked = (peer, now)
            self._next = float("inf")
        return self._trouble

    def wait_s(self, now: float) -> float:
        """Return the seconds until a look is due."""
        return max(self._next - now, 0.0)

    def _look(self, peer: Peer, *, doubtful: bool) -> None:
        """Do one look; in the thread of the errand, which alone has `_news`."""
        self._news = True
        self._exchange(peer, doubtful=doubtful)
        self._news = doubtful

    def _ended(self) -> None:
        if self._news:
            self._wake()

    def _note(self, error: AgentError | None, now: float) -> None:
        begun = self._asked[1]
        if error is None or error.finding.code not in _COUNT:
            self._failing_since = self._trouble = None
            self._next = max(begun + self._random.uniform(*PERIOD_S) * self._scale, now)
            return
        self._next = now + AGAIN_S * self._scale
        if self._failing_since is None:
            self._failing_since = begun
        elif now - self._failing_since >= PROVEN_S * self._scale:
            self._trouble = error
