"""What ``doctor`` dials: the SuperLink, as this VM's Flower would, and this VM's own APIs."""

import dataclasses
from collections.abc import Iterator

from flower_agent.address import Address
from flower_agent.config.inputs import Inputs
from flower_agent.config.parsers import Role
from flower_agent.config.settings import Settings
from flower_agent.errors import AgentError
from flower_agent.loop import superexec, superlink, supernode
from flower_agent.machine import firewall_tools, host
from flower_agent.memory import Memory
from flower_agent.paths import Paths
from flower_agent.pki import node_trust
from flower_agent.pki.keyring import Keyring
from flower_agent.probes import exchange
from flower_agent.probes.control import NodeStatus
from flower_agent.probes.health import ALPN_GRPC, ALPN_HTTP, Prober
from flower_agent.record import Record
from flower_agent.service import discovery, finder, look
from flower_agent.service.onegate import OneGate
from flower_agent.wanted import flower, roles
from flower_agent.wanted.arguments import Trust
from flower_agent.wanted.flower import Transport

from . import firewall_report, own_superlink
from .verdicts import Check, found, well

TIMEOUT_S = 5.0


def examine(
    paths: Paths, read: Inputs, settings: Settings, client: OneGate | None
) -> Iterator[Check]:
    """Dial what this VM's Flower dials, as it would."""
    prober = Prober()
    try:
        if settings.role is Role.SUPERLINK:
            yield from _own(paths, read, settings, prober)
        elif settings.role is Role.SUPERNODE:
            yield from _superlink(paths, read, settings, client, prober)
        elif settings.appio_address is not None:
            prober.probe_tcp(settings.appio_address, TIMEOUT_S)
            exchange.look(superexec.peer(settings, host.observe().mtu), doubtful=True)
            yield well("appio", f"{settings.appio_address} answers")
    except AgentError as error:
        yield found("appio" if settings.role is Role.SUPEREXEC else "superlink", error.finding)


def _own(paths: Paths, read: Inputs, settings: Settings, prober: Prober) -> Iterator[Check]:
    variables = read.variables or {}
    own = superlink.own_address(settings.address, host.observe(), variables)
    places = roles.endpoints(settings, own)
    yield firewall_report.judge(firewall_tools.ask_tools(), places.fleet.listen)
    public = superlink.published(settings, own)
    ca_pem = Keyring(paths.tls).held_ca()
    _dial(prober, settings, places.fleet.dial, ca_pem or None, public.host)
    yield well("superlink", f"{public} answers{' with TLS' if settings.tls else ''}")
    with own_superlink.reach(paths) as reached:
        nodes = reached.api.list_nodes(TIMEOUT_S)
    online = sum(node.status is NodeStatus.ONLINE for node in nodes)
    yield well("control", f"{places.control.dial} answers; {online} SuperNodes are online")


def _superlink(
    paths: Paths, read: Inputs, settings: Settings, client: OneGate | None, prober: Prober
) -> Iterator[Check]:
    record = Memory(paths.record).recall(read.vmid)
    link, source = _known(settings, client, record)
    where = f"VM {link.vmid}, " if link.vmid else ""
    yield well("discover", f"the SuperLink is {where}{link.endpoint}{source}")
    for finding in (
        node_trust.mismatch(settings, link),
        discovery.mixed_versions(settings.version, link.version),
    ):
        if finding is not None:
            yield found("discover", finding)
    ca_pem = None
    if node_trust.trust_of(settings) is Trust.CA:
        held_pem = Keyring(paths.tls).held_ca()
        ca_pem = node_trust.trusted_ca(settings, link.ca_pem, record, held_pem)
    look.dial(prober, supernode.peer(settings, link.endpoint, host.observe().mtu), ca_pem)
    yield well("superlink", f"{link.endpoint} answers{' with TLS' if settings.tls else ''}")


def _known(
    settings: Settings, client: OneGate | None, record: Record
) -> tuple[discovery.SuperLink, str]:
    """Return the SuperLink that the agent uses, and whence where OneGate fails to tell."""
    try:
        return _find(settings, client, record.superlink_vmid), ""
    except AgentError as error:
        if record.superlink is None or not error.finding.code.startswith("onegate."):
            raise
    remembered = discovery.SuperLink(record.superlink, vmid=record.superlink_vmid)
    fixed = finder.fixed(settings)  # counts more than what was found under other settings
    return (fixed, "") if fixed else (remembered, ", from memory")


def _find(settings: Settings, client: OneGate | None, known: str | None) -> discovery.SuperLink:
    """Return the SuperLink as the agent would find it now. Raises AgentError."""
    fixed = finder.fixed(settings)
    if fixed is not None and not finder.wants_ca(settings):
        return fixed
    if client is None:
        lost = node_trust.no_source(settings)
        raise AgentError("discover.no_source", lost.message if lost else "there is no OneGate")
    vmid = client.access.vmid
    seen = finder.look_up(client, vmid, known, superlink=True, partition=False).superlink
    if seen is None:
        raise AgentError("discover.waiting", "OneGate tells of no SuperLink", retryable=True)
    return dataclasses.replace(seen, endpoint=fixed.endpoint) if fixed else seen


def _dial(
    prober: Prober, settings: Settings, address: Address, ca_pem: str | None, name: str
) -> None:
    if not settings.tls:
        prober.probe_tcp(address, TIMEOUT_S)
        return
    http = flower.band(settings.version).fleet is Transport.HTTP
    alpn = ALPN_HTTP if http else ALPN_GRPC
    prober.probe_tls(address, ca_pem, server_hostname=name, alpn=alpn, timeout_s=TIMEOUT_S)
