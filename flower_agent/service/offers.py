"""Which VM of the service offers the AppIo that a lone SuperExec should attach to. Pure.

A VM with FLOWER_APPIO_LISTEN publishes FLOWER_APPIO and the CA of its certificate: a SuperLink
FLOWER_CA_CERT, a SuperNode FLOWER_APPIO_CA. Like all that other VMs write it is checked as input.
"""

import dataclasses
from collections.abc import Collection

from flower_agent import address
from flower_agent.address import Address
from flower_agent.config.parsers import Plugin
from flower_agent.errors import AgentError, Finding, warning
from flower_agent.wanted import flower
from flower_agent.wanted.flower import Version

from . import discovery
from .discovery import Peer


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """An AppIo as its VM publishes it."""

    vmid: str

    ca_pem: str
    """The CA that its certificate chains to; not judged yet."""

    version: str
    """The Flower version of that VM; empty where it says none."""


def offers(peer: Peer, wanted: Address) -> bool:
    """Tell whether `peer` offers its AppIo at exactly `wanted`."""
    where = _where(peer)
    if where is None or where.port != wanted.port:
        return False
    return address.canonical_host(where.host) == address.canonical_host(wanted.host)


def choose(peers: Collection[Peer], wanted: Address, plugin: Plugin) -> Offer:
    """Return the offer at `wanted`, else the only one on its port: the host may have more names.

    Raises AgentError ``discover.waiting`` while there is none, and ``setting.conflict`` where the
    VM is of the other role than `plugin` is for.
    """
    exact = [peer for peer in peers if offers(peer, wanted)]
    at_port = [p for p in peers if (where := _where(p)) and where.port == wanted.port]
    found = exact[:1] or at_port
    if len(found) != 1:
        many = " and ".join(f"VM {peer.vmid} ({discovery.shown(peer.name)})" for peer in found)
        why = f"{many} offer one on that port" if found else "no VM of the service offers it yet"
        raise AgentError(
            "discover.waiting",
            f"whose AppIo is at {wanted} is not known: {why}",
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
    message = f"this SuperExec is of Flower {own}, its AppIo of {discovery.shown(other)}"
    try:
        theirs = flower.parse_version(other).release
    except ValueError:
        theirs = own.release
    if max(theirs, own.release)[:2] < flower.SUPEREXEC_MATCHES_SINCE:
        return warning("version.mixed", message)
    return Finding("version.mixed", f"{message}: the two cannot work together")


def _offer(peer: Peer, wanted: Address, plugin: Plugin) -> Offer:
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
        off = peer.attributes.get("FLOWER_TLS") == "NO"
        code = "tls.mismatch" if off else "discover.waiting"
        why = "TLS is on here and off there" if off else f"its {name} is not published yet"
        raise AgentError(code, f"VM {peer.vmid} offers {wanted}: {why}", retryable=True)
    return Offer(peer.vmid, ca_pem, peer.attributes.get("FLOWER_VERSION", ""))


def _where(peer: Peer) -> Address | None:
    if not peer.attributes.get("FLOWER_APPIO"):
        return None
    try:
        return discovery.published_address(peer, "FLOWER_APPIO")
    except AgentError:
        return None
