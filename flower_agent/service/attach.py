"""How a lone SuperExec learns the CA of the AppIo that it attaches to: by asking OneGate.

It asks until it has found the VM, and again when that was lost: ``/service``, then ``/vms/ID`` of
each VM outside its own role until one offers the address; the one from before comes first.
"""

import random

from flower_agent.address import Address
from flower_agent.config.parsers import Plugin
from flower_agent.errands import Errands
from flower_agent.errors import AgentError

from . import discovery, offers, pace
from .discovery import Peer
from .offers import Offer
from .onegate import OneGate

_LOOKUP = "onegate-offer"

_Target = tuple[Address, Plugin]


class Search:
    """One AppIo at a time; `find` returns at once."""

    def __init__(self, errands: Errands, *, rng: random.Random, scale: float = 1.0) -> None:
        self._errands = errands
        self._random = rng
        self._scale = scale
        self._target: _Target | None = None
        self._found: Offer | None = None
        self._trouble: AgentError | None = None
        self._stale = False
        self._failures = 0
        self._next = 0.0

    def forget(self) -> None:
        """Ask again when the pace allows; what is known counts until then."""
        self._stale = True

    def find(
        self, client: OneGate, attach: Address, plugin: Plugin, *, known: str | None, now: float
    ) -> Offer:
        """Return the offer at `attach`; `known` is the VM that had it before.

        Raises AgentError ``discover.…``, ``onegate.…``, ``setting.conflict`` or ``tls.mismatch``
        while it is not known.
        """
        target = (attach, plugin)
        if self._target != target:
            self._target, self._found, self._trouble, self._next = target, None, None, 0.0
        self._take(target, now)
        if (self._found is None or self._stale) and now >= self._next:
            vmid = client.access.vmid
            self._errands.start(_LOOKUP, lambda: (target, _ask(client, vmid, target, known)))
        if self._found is not None:
            return self._found
        raise self._trouble or AgentError(
            "discover.waiting", f"OneGate is asked who offers {attach}", retryable=True
        )

    def _take(self, target: _Target, now: float) -> None:
        done = self._errands.take(_LOOKUP)
        if done is None:
            return
        asked, found = done.value if done.error is None else (target, done.error)
        if asked != target:
            return
        code = found.finding.code if isinstance(found, AgentError) else ""
        self._failures = pace.failures(self._failures, code)
        self._next = now + pace.pause_s(self._failures, self._random.random()) * self._scale
        if isinstance(found, AgentError):
            self._trouble = found
            if not found.finding.code.startswith("onegate."):
                self._found = None
        else:
            self._trouble, self._found, self._stale = None, found, False


def _ask(client: OneGate, own_vmid: str, target: _Target, known: str | None) -> Offer | AgentError:
    attach, plugin = target
    peers: list[Peer] = []
    try:
        service = discovery.parse_service(client.service())
        candidates = discovery.worth_asking(service, own_vmid)
        for vmid in sorted(candidates, key=lambda each: each != known):
            peers.append(discovery.parse_vm(client.vm(vmid)))
            if offers.offers(peers[-1], attach):
                break
        return offers.choose(peers, attach, plugin)
    except AgentError as error:
        return error
