"""A look at an endpoint far away, as Flower would dial it; beside the loop, since it may hang."""

import random

from flower_agent.errands import Errands
from flower_agent.errors import AgentError
from flower_agent.probes import exchange
from flower_agent.probes.exchange import Peer
from flower_agent.probes.health import ALPN_GRPC, ALPN_HTTP, Prober

TIMEOUT_S = 5.0
GOOD_FOR_S = 60.0
RETRY_S = (1.0, 3.0)
_ERRAND = "endpoint-look"

_Target = tuple[Peer, str | None]
"""A peer and the CA by which it is judged."""


class Look:
    """One endpoint at a time; `judge` returns at once."""

    def __init__(
        self,
        errands: Errands,
        prober: Prober,
        *,
        rng: random.Random,
        scale: float = 1.0,
        errand: str = _ERRAND,
    ) -> None:
        self._errands = errands
        self._errand = errand
        self._prober = prober
        self._random = rng
        self._scale = scale
        self._looked: tuple[_Target, AgentError | None] | None = None
        self._next = 0.0

    def judge(self, peer: Peer, ca_pem: str | None, *, now: float) -> None:
        """Check that the peer answers; with TLS by `ca_pem`, None the system's store.

        Raises AgentError ``endpoint.…`` while it does not, ``peer.mtu`` where large packets do not
        reach it, ``discover.waiting`` before the first answer. A good answer counts for a minute.
        """
        wanted = (peer, ca_pem)
        done = self._errands.take(self._errand)
        if done is not None:
            target, error = done.value if done.error is None else (wanted, done.error)
            self._looked = (target, error)
            wait = GOOD_FOR_S if error is None else self._random.uniform(*RETRY_S)
            self._next = now + wait * self._scale
        fresh = self._looked is not None and self._looked[0] == wanted
        if not fresh or now >= self._next:
            self._errands.start(self._errand, lambda: self._look(wanted))
        if not fresh or self._looked is None:
            message = f"the endpoint {peer.address} is looked at"
            raise AgentError("discover.waiting", message, retryable=True)
        if self._looked[1] is not None:
            raise self._looked[1]

    def forget(self) -> None:
        """Look again at once: what was seen may be over."""
        self._next = 0.0

    def _look(self, wanted: _Target) -> tuple[_Target, AgentError | None]:
        try:
            dial(self._prober, *wanted)
        except AgentError as error:
            return wanted, error
        return wanted, None


def dial(prober: Prober, peer: Peer, ca_pem: str | None) -> None:
    """Dial a peer as Flower would, then with a large packet.

    Raises AgentError ``endpoint.…``, ``peer.mtu``.
    """
    _dial(prober, peer, ca_pem)
    if not exchange.answers(peer, small=False, timeout_s=TIMEOUT_S):
        raise exchange.too_large(peer)


def _dial(prober: Prober, peer: Peer, ca_pem: str | None) -> None:
    if not peer.tls:
        prober.probe_tcp(peer.address, TIMEOUT_S)
        if not exchange.answers(peer, small=True, timeout_s=TIMEOUT_S):
            message = f"{peer.address} takes connections and answers nothing"
            raise AgentError("endpoint.timeout", message, retryable=True)
        return
    alpn = ALPN_HTTP if peer.http else ALPN_GRPC
    try:
        prober.probe_tls(peer.address, ca_pem, alpn=alpn, timeout_s=TIMEOUT_S)
    except AgentError as error:
        silent = error.finding.code == "endpoint.timeout"
        if silent and exchange.answers(peer, small=True, timeout_s=TIMEOUT_S):
            raise exchange.too_large(peer) from error  # its certificate is large, too
        raise
