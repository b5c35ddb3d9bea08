"""How a SuperExec VM finds the VM that offers its AppIo, and the CA of that AppIo.

It asks until it has found the VM, and again when that was lost: ``/service``, then ``/vms/ID`` of
each VM outside its own role until one offers the address; the one from before comes first.

A VM with FLOWER_APPIO_LISTEN publishes FLOWER_APPIO and the CA of its certificate: a SuperLink
FLOWER_CA_CERT, a SuperNode FLOWER_APPIO_CA. Like all that other VMs write it is checked as input.
"""

import dataclasses
import random
from collections.abc import Collection

from flower_agent.background import Background, Threads
from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Version
from flower_agent.config.types import Plugin
from flower_agent.model import address
from flower_agent.model.address import Address
from flower_agent.model.errors import AgentError, Finding, StillSearchingError, warning
from flower_agent.onegate import discovery, superlink_search
from flower_agent.onegate.client import OneGate
from flower_agent.onegate.discovery import ServiceVm


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """An AppIo as its VM publishes it."""

    vmid: str

    ca_pem: str
    """The CA that its certificate chains to; not judged yet."""

    version: str
    """The Flower version of that VM; empty where it says none."""


def offers(peer: ServiceVm, wanted: Address) -> bool:
    """Return whether `peer` offers its AppIo at exactly `wanted`."""
    where = _where(peer)
    if where is None or where.port != wanted.port:
        return False
    return address.canonical_host(where.host) == address.canonical_host(wanted.host)


def choose(peers: Collection[ServiceVm], wanted: Address, plugin: Plugin) -> Offer:
    """Return the offer at `wanted`, else the only one on its port: the host may have more names.

    Raises AgentError ``discover.waiting`` while there is none, and ``setting.conflict`` where the
    VM is of the other role than `plugin` is for.
    """
    exact = [peer for peer in peers if offers(peer, wanted)]
    at_port = [p for p in peers if (where := _where(p)) and where.port == wanted.port]
    found = exact[:1] or at_port
    if len(found) != 1:
        many = " and ".join(f"VM {peer.vmid} ({discovery.shown(peer.name)})" for peer in found)
        why = (
            f"{many} offer an AppIo on that port"
            if found
            else "no VM of the service offers this AppIo yet"
        )
        raise StillSearchingError(
            "discover.waiting",
            f"the VM with the AppIo at {wanted} is not known: {why}",
            "Set FLOWER_APPIO_LISTEN on that VM, to the address in FLOWER_APPIO_ADDRESS.",
            retryable=True,
        )
    return _offer(found[0], wanted, plugin)


def mixed_versions(own: Version, other: str) -> Finding | None:
    """Return a finding where a SuperExec's version is not that of what it attaches to.

    An error from 1.30 on, where Flower refuses another major or minor (exit code 606).
    """
    if not other or other.split(".")[:2] == [str(own.major), str(own.minor)]:
        return None
    message = f"this SuperExec has Flower {own}, its AppIo {discovery.shown(other)}"
    try:
        theirs = flower_versions.parse_version(other).release
    except ValueError:
        theirs = own.release
    if max(theirs, own.release)[:2] < flower_versions.SUPEREXEC_MATCHES_SINCE:
        return warning("version.mixed", message)
    return Finding("version.mixed", f"{message}: the two cannot work together")


def _offer(peer: ServiceVm, wanted: Address, plugin: Plugin) -> Offer:
    role = peer.attributes.get("FLOWER_ROLE", "")
    fits = Plugin.SERVERAPP if role == "superlink" else Plugin.CLIENTAPP
    if fits is not plugin:
        raise AgentError(
            "setting.conflict",
            f"FLOWER_SUPEREXEC_PLUGIN is {plugin}, and {wanted} is the AppIo of a "
            f"{discovery.shown(role) or 'VM without a role'}",
            f"Set FLOWER_SUPEREXEC_PLUGIN={fits}, or correct FLOWER_APPIO_ADDRESS.",
            retryable=True,
        )
    name = "FLOWER_CA_CERT" if role == "superlink" else "FLOWER_APPIO_CA"
    ca_pem = discovery.published_ca(peer, name)
    if ca_pem is None:
        message = f"VM {peer.vmid} offers {wanted}: "
        if peer.attributes.get("FLOWER_TLS") == "NO":
            raise AgentError(
                "tls.mismatch", f"{message}TLS is on here and off there", retryable=True
            )
        raise StillSearchingError(
            "discover.waiting", f"{message}its {name} is not published yet", retryable=True
        )
    return Offer(peer.vmid, ca_pem, peer.attributes.get("FLOWER_VERSION", ""))


def _where(peer: ServiceVm) -> Address | None:
    if not peer.attributes.get("FLOWER_APPIO"):
        return None
    try:
        return discovery.published_address(peer, "FLOWER_APPIO")
    except AgentError:
        return None


_Target = tuple[Address, Plugin]


class AppIoSearch:
    """One AppIo at a time; `find` returns at once."""

    def __init__(self, threads: Threads, *, rng: random.Random, scale: float = 1.0) -> None:
        self._lookup: Background[_Target, Offer] = Background(
            threads, "onegate-offer", superlink_search.policy(rng, scale)
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
        if (
            ended is not None
            and ended.error is not None
            and superlink_search.is_answer(ended.error)
        ):
            self._lookup.answer = None  # OneGate says that it is gone
        if self._lookup.answer is not None:
            return self._lookup.answer
        raise self._lookup.error or StillSearchingError(
            "discover.waiting", f"the agent asks OneGate which VM offers {attach}", retryable=True
        )


def _ask(client: OneGate, own_vmid: str, target: _Target, known: str | None) -> Offer:
    attach, plugin = target
    peers: list[ServiceVm] = []
    service = discovery.parse_service(client.service())
    candidates = discovery.worth_asking(service, own_vmid)
    for vmid in sorted(candidates, key=lambda each: each != known):
        peers.append(discovery.parse_vm(client.vm(vmid)))
        if offers(peers[-1], attach):
            break
    return choose(peers, attach, plugin)
