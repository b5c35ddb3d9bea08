"""A look at an endpoint far away, as Flower would dial it; beside the loop, since it may hang."""

import random

from flower_agent.address import Address
from flower_agent.errands import Errands
from flower_agent.errors import AgentError
from flower_agent.probes.health import ALPN_GRPC, ALPN_HTTP, Prober

TIMEOUT_S = 5.0
GOOD_FOR_S = 60.0
RETRY_S = (1.0, 3.0)
_ERRAND = "endpoint-look"

_Target = tuple[Address, str | None]
"""An endpoint and the CA by which it is judged."""


class Look:
    """One endpoint at a time; `judge` returns at once."""

    def __init__(
        self, errands: Errands, prober: Prober, *, rng: random.Random, scale: float = 1.0
    ) -> None:
        self._errands = errands
        self._prober = prober
        self._random = rng
        self._scale = scale
        self._looked: tuple[_Target, AgentError | None] | None = None
        self._next = 0.0

    def judge(
        self, endpoint: Address, ca_pem: str | None, *, tls: bool, http: bool, now: float
    ) -> None:
        """Check that the endpoint answers; with `tls` by `ca_pem`, None the system's store.

        Raises AgentError ``endpoint.…`` while it does not, ``discover.waiting`` before the first
        answer. A good answer counts for a minute.
        """
        wanted = (endpoint, ca_pem)
        done = self._errands.take(_ERRAND)
        if done is not None:
            target, error = done.value if done.error is None else (wanted, done.error)
            self._looked = (target, error)
            wait = GOOD_FOR_S if error is None else self._random.uniform(*RETRY_S)
            self._next = now + wait * self._scale
        fresh = self._looked is not None and self._looked[0] == wanted
        if not fresh or now >= self._next:
            self._errands.start(_ERRAND, lambda: self._look(wanted, tls=tls, http=http))
        if not fresh or self._looked is None:
            message = f"the endpoint {endpoint} is looked at"
            raise AgentError("discover.waiting", message, retryable=True)
        if self._looked[1] is not None:
            raise self._looked[1]

    def _look(self, wanted: _Target, *, tls: bool, http: bool) -> tuple[_Target, AgentError | None]:
        endpoint, ca_pem = wanted
        try:
            if tls:
                alpn = ALPN_HTTP if http else ALPN_GRPC
                self._prober.probe_tls(endpoint, ca_pem, alpn=alpn, timeout_s=TIMEOUT_S)
            else:
                self._prober.probe_tcp(endpoint, TIMEOUT_S)
        except AgentError as error:
            return wanted, error
        return wanted, None
