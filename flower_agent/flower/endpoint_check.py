"""A look at an endpoint far away, as Flower would dial it; beside the loop, since it may hang."""

import random

from flower_agent.background import Background, Threads
from flower_agent.flower import peer_check
from flower_agent.flower.health import ALPN_GRPC, ALPN_HTTP, Prober
from flower_agent.flower.peer_check import PeerEndpoint
from flower_agent.model.errors import EndpointTimeoutError, StillSearchingError

TIMEOUT_S = 5.0
GOOD_FOR_S = 60.0
RETRY_S = (1.0, 3.0)

_Target = tuple[PeerEndpoint, str | None]
"""A peer and the CA by which it is judged."""


class EndpointCheck:
    """One endpoint at a time; `judge` returns at once."""

    def __init__(
        self,
        threads: Threads,
        prober: Prober,
        *,
        rng: random.Random,
        scale: float = 1.0,
        name: str = "endpoint-look",
    ) -> None:
        self._prober = prober
        self._looks: Background[_Target, None] = Background(
            threads,
            name,
            lambda error, _: rng.uniform(*RETRY_S) * scale if error else 0.0,
            good_for_s=GOOD_FOR_S * scale,
        )

    def judge(self, peer: PeerEndpoint, ca_pem: str | None, *, now: float) -> None:
        """Check that the peer answers; with TLS by `ca_pem`, None the system's store.

        Raises AgentError ``endpoint.…`` while it does not, ``peer.mtu`` where large packets do not
        reach it, ``discover.waiting`` before the first answer. A good answer counts for a minute.
        """
        wanted = (peer, ca_pem)
        self._looks.ask(wanted, lambda: dial(self._prober, peer, ca_pem), now)
        if not self._looks.asked:
            message = f"the agent checks the endpoint {peer.address}"
            raise StillSearchingError("discover.waiting", message, retryable=True)
        if self._looks.error is not None:
            raise self._looks.error

    def forget(self) -> None:
        """Look again soon: what was seen may be over."""
        self._looks.again()


def dial(prober: Prober, peer: PeerEndpoint, ca_pem: str | None) -> None:
    """Dial a peer as Flower would, then with a large packet.

    Raises AgentError ``endpoint.…``, ``peer.mtu``.
    """
    _dial(prober, peer, ca_pem)
    if not peer_check.answers(peer, small=False, timeout_s=TIMEOUT_S):
        raise peer_check.too_large(peer)


def _dial(prober: Prober, peer: PeerEndpoint, ca_pem: str | None) -> None:
    if not peer.tls:
        prober.probe_tcp(peer.address, TIMEOUT_S)
        if not peer_check.answers(peer, small=True, timeout_s=TIMEOUT_S):
            message = f"{peer.address} accepts connections but does not answer"
            raise EndpointTimeoutError("endpoint.timeout", message, retryable=True)
        return
    alpn = ALPN_HTTP if peer.http else ALPN_GRPC
    try:
        prober.probe_tls(peer.address, ca_pem, alpn=alpn, timeout_s=TIMEOUT_S)
    except EndpointTimeoutError as error:
        if peer_check.answers(peer, small=True, timeout_s=TIMEOUT_S):
            raise peer_check.too_large(peer) from error  # its certificate is large, too
        raise
