"""How a lone SuperExec learns the CA of the AppIo that it attaches to: by asking OneGate.

It asks until it has found the VM, and again when that was lost: ``/service``, then ``/vms/ID`` of
each VM outside its own role until one offers the address; the one from before comes first.
"""

import random

from flower_agent.address import Address
from flower_agent.background import Background, Threads
from flower_agent.config.parsers import Plugin
from flower_agent.errors import AgentError

from . import discovery, offers, pace
from .discovery import Peer
from .offers import Offer
from .onegate import OneGate

_Target = tuple[Address, Plugin]


class Search:
    """One AppIo at a time; `find` returns at once."""

    def __init__(self, threads: Threads, *, rng: random.Random, scale: float = 1.0) -> None:
        self._lookup: Background[_Target, Offer] = Background(
            threads, "onegate-offer", pace.policy(rng, scale)
        )

    def forget(self) -> None:
        """Ask again when the pace allows; what is known counts until then."""
        self._lookup.again()

    def find(
        self, client: OneGate, attach: Address, plugin: Plugin, *, known: str | None, now: float
    ) -> Offer:
        """Return the offer at `attach`; `known` is the VM that had it before.

        Raises AgentError ``discover.…``, ``onegate.…``, ``setting.conflict`` or ``tls.mismatch``
        while it is not known.
        """
        target, vmid = (attach, plugin), client.access.vmid
        ended = self._lookup.ask(target, lambda: _ask(client, vmid, target, known), now)
        if ended is not None and ended.error is not None and pace.is_answer(ended.error):
            self._lookup.answer = None  # OneGate says that it is gone
        if self._lookup.answer is not None:
            return self._lookup.answer
        raise self._lookup.error or AgentError(
            "discover.waiting", f"OneGate is asked who offers {attach}", retryable=True
        )


def _ask(client: OneGate, own_vmid: str, target: _Target, known: str | None) -> Offer:
    attach, plugin = target
    peers: list[Peer] = []
    service = discovery.parse_service(client.service())
    candidates = discovery.worth_asking(service, own_vmid)
    for vmid in sorted(candidates, key=lambda each: each != known):
        peers.append(discovery.parse_vm(client.vm(vmid)))
        if offers.offers(peers[-1], attach):
            break
    return offers.choose(peers, attach, plugin)
