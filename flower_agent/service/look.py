"""A look at an endpoint far away, as Flower would dial it; beside the loop, since it may hang."""

import random

from flower_agent.address import Address
from flower_agent.background import Background, Threads
from flower_agent.errors import AgentError
from flower_agent.probes.health import ALPN_GRPC, ALPN_HTTP, Prober

TIMEOUT_S = 5.0
GOOD_FOR_S = 60.0
RETRY_S = (1.0, 3.0)

_Target = tuple[Address, str | None, bool, bool]
"""An endpoint, the CA by which it is judged, whether by TLS, and whether for HTTP."""


class Look:
    """One endpoint at a time; `judge` returns at once."""

    def __init__(
        self, threads: Threads, prober: Prober, *, rng: random.Random, scale: float = 1.0
    ) -> None:
        self._prober = prober
        self._looks: Background[_Target, None] = Background(
            threads,
            "endpoint-look",
            lambda error, _: rng.uniform(*RETRY_S) * scale if error else 0.0,
            good_for_s=GOOD_FOR_S * scale,
        )

    def judge(
        self, endpoint: Address, ca_pem: str | None, *, tls: bool, http: bool, now: float
    ) -> None:
        """Check that the endpoint answers; with `tls` by `ca_pem`, None the system's store.

        Raises AgentError ``endpoint.…`` while it does not, ``discover.waiting`` before the first
        answer. A good answer counts for a minute.
        """
        wanted = (endpoint, ca_pem, tls, http)
        self._looks.ask(wanted, lambda: self._look(*wanted), now)
        if not self._looks.asked:
            message = f"the endpoint {endpoint} is looked at"
            raise AgentError("discover.waiting", message, retryable=True)
        if self._looks.error is not None:
            raise self._looks.error

    def _look(self, endpoint: Address, ca_pem: str | None, tls: bool, http: bool) -> None:  # noqa: FBT001  # the request's parts
        if tls:
            alpn = ALPN_HTTP if http else ALPN_GRPC
            self._prober.probe_tls(endpoint, ca_pem, alpn=alpn, timeout_s=TIMEOUT_S)
        else:
            self._prober.probe_tcp(endpoint, TIMEOUT_S)
