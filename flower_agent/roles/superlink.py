"""The role of a SuperLink: which certificates it needs, where it listens, whether it works.

A SuperLink works if its Fleet port answers a TLS handshake with a certificate of the published CA,
and the Control API answers. Flower's health service says SERVING even if the database cannot be
written, so it is never enough. Nothing here depends on SuperNodes or runs.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping

from flower_agent import files
from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Transport
from flower_agent.config.settings import Settings
from flower_agent.cycle import Cycle, Preparation, Running
from flower_agent.docker.containers import Component
from flower_agent.enrolment import expected_nodes, partition_assigner, refusals
from flower_agent.enrolment.enroller import Enroller
from flower_agent.enrolment.node_reports import NodeReports
from flower_agent.flower import container_spec
from flower_agent.flower.command_line import Endpoints
from flower_agent.flower.container_spec import RoleSpec
from flower_agent.flower.control_client import Control
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.flower.health import ALPN_GRPC, ALPN_HTTP, Prober
from flower_agent.host import network
from flower_agent.host.firewall import Firewalls
from flower_agent.host.machine import HostFacts
from flower_agent.model.address import Address, is_any, is_ip, is_loopback, parse_address
from flower_agent.model.errors import AgentError, ControlDatabaseError, Finding, warning
from flower_agent.model.status import Mark
from flower_agent.paths import Paths
from flower_agent.proxy import fleet_proxy, haproxy_config
from flower_agent.proxy.fleet_proxy import FleetProxy
from flower_agent.proxy.proxy_files import GatewayShown
from flower_agent.reporting import node_table
from flower_agent.roles import appio
from flower_agent.roles.gateway_host import GatewayHost, GatewayTrust
from flower_agent.roles.server_certificate import ServerCertificate
from flower_agent.runs import app_directories
from flower_agent.runs.follower import Follower
from flower_agent.runs.submitter import Submitter
from flower_agent.tls import certificates, trust
from flower_agent.tls.store import Keyring

TIMEOUT_S = 3.0

ROOM_BYTES = 1 << 20
"""With less free space than this the database fails at the next node or round."""


class SuperLinkController:
    """The work of a SuperLink VM apart from its containers."""

    def __init__(
        self,
        prober: Prober,
        enroller: Enroller,
        submitter: Submitter,
        certificate: ServerCertificate,
        *,
        firewalls: Firewalls,
        follower: Follower,
        reports: NodeReports,
        paths: Paths,
        gateway: GatewayHost | None = None,
    ) -> None:
        self._prober = prober
        self._gateway = gateway
        self._certificate = certificate
        self._firewalls = firewalls
        self._enroller = enroller
        self._follower = follower
        self._reports = reports
        self._submitter = submitter
        self._paths = paths
        self._proxy = FleetProxy(paths, prober)
        self._database = paths.superlink

    def prepare(self, cycle: Cycle) -> Preparation:
        """Return the wanted certificates and the address to listen on.

        Raises AgentError ``address.…`` or ``tls.…``.
        """
        settings = cycle.seen.settings
        host = own_address(settings.address, cycle.seen.host, cycle.seen.variables)
        if cycle.seen.host.rival_routes and (settings.address is None or is_any(host)):
            cycle.report.warn(_rivals(cycle.seen.host))
        places = container_spec.endpoints(settings, host)
        public = published(settings, _named(host, cycle))
        node_auth = self._enroller.wants_keys(cycle)
        cycle.report.published = dataclasses.replace(
            cycle.report.published, endpoint=public, node_auth=node_auth
        )
        partition_assigner.tell(cycle, node_auth=node_auth)
        if self._gateway is not None:
            self._gateway.require(cycle, host, _named(host, cycle))
        wanted = self._trust(cycle, host, public)
        spec = RoleSpec(fleet_host=host, node_auth=node_auth)
        if wanted.source is trust.CertificateSource.GIVEN and _attaches_here(settings, places):
            spec = dataclasses.replace(spec, appio_name=named_for_apps(public))
        loopback = self._loopback(cycle, places, public)
        return Preparation(trust=wanted, loopback=loopback, spec=spec)

    def may_start(self, cycle: Cycle) -> None:
        """Do nothing: a SuperLink may always start."""

    def check(self, cycle: Cycle, running: Running) -> None:
        """Raise AgentError for the first thing that does not work."""
        settings = cycle.seen.settings
        host = running.spec.fleet_host
        places = container_spec.endpoints(settings, host)
        public = published(settings, _named(host, cycle))
        self._prober.probe_serving(container_spec.health(settings, Component.SUPERLINK), TIMEOUT_S)
        cycle.report.set_condition("health", Mark.OK, "gRPC health service answers SERVING")
        ca_pem = cycle.seen.keyring.held_ca() if settings.tls else None
        shown = self._shown(cycle, host)
        self._fleet(cycle, places, public, ca_pem, shown)
        control = control_trust(settings, public, cycle.seen.keyring)
        dial = functools.partial(connect, places, *control)
        with contextlib.closing(dial()) as api:
            nodes = api.list_nodes(TIMEOUT_S)
            self._room()
            cycle.report.set_condition(
                "control", Mark.OK, f"Control API answers at {places.control.listen}"
            )
            self._enrol(cycle, running.spec, nodes, api)
        if self._gateway is not None:
            trust_of = GatewayTrust(server_hostname=control[0].host, ca_pem=control[1])
            self._gateway.follow(cycle, places, trust_of, _named(host, cycle), shown)
        online = self._note_nodes(cycle, nodes, places.fleet.listen)
        self._follower.follow(
            cycle, running, dial, app_directories.outputs_limit(self._paths, settings)
        )
        vmids = [pin.vmid for pin in cycle.state.pins]
        active, now = self._follower.active, cycle.seen.monotonic
        cycle.report.warn(*self._reports.follow(cycle.seen.client, vmids, active, now))
        self._submitter.follow(cycle, online, running.image, dial)
        if settings.appio_listen is not None:
            appio.check(cycle, self._prober, places.appio, ca_pem or "", public.host)
        # Only now: nodes may use the CA as soon as they see it at OneGate.
        if ca_pem:
            self._tell_ca(cycle, ca_pem, nodes)
        keyring = cycle.seen.keyring
        trusted = keyring.loopback if container_spec.proxied(settings) else keyring
        ca_file = trusted.ca if ca_pem else None
        cycle.report.commands = commands(settings, places, public, ca_file)

    def _trust(self, cycle: Cycle, host: str, public: Address) -> trust.CertificateSpec:
        settings, places = cycle.seen.settings, container_spec.endpoints(cycle.seen.settings, host)
        more = [*settings.tls_sans, *_beyond(settings.control_address.host)]
        more += _beyond(settings.appio_listen.host) if settings.appio_listen else ()
        if self._gateway is not None:
            more += self._gateway.names(settings, host, _named(host, cycle))
        own = trust.hosts(published=public.host, listen=_named(host, cycle), more=more)
        dialled = {public.host}
        if _attaches_here(settings, places) and not named_for_apps(public):
            dialled.add(places.appio.dial.host)  # the local SuperExec checks the name like a node
        return self._certificate.wanted(
            cycle, own, dialled, lambda: self._active(cycle, places, public)
        )

    def _loopback(
        self, cycle: Cycle, places: Endpoints, public: Address
    ) -> trust.CertificateSpec | None:
        """Return what a SuperLink behind HAProxy shows; None where it is not or has no TLS."""
        settings, control = cycle.seen.settings, places.control.listen.host
        if not (container_spec.proxied(settings) and settings.tls):
            return None
        hosts = [places.control.dial.host, *settings.tls_sans]
        if is_any(control):
            hosts += [_named(control, cycle), public.host]
        return fleet_proxy.certificate(
            cycle.seen.keyring,
            hosts,
            cycle.seen.now,
            lambda: self._active(cycle, places, public),
        )

    def _active(self, cycle: Cycle, places: Endpoints, public: Address) -> bool:
        """Return whether a run is active, so that the SuperLink must not restart.

        A running SuperLink that does not answer may have an active run too.
        """
        name, ca_pem = control_trust(cycle.seen.settings, public, cycle.seen.keyring)
        try:
            with contextlib.closing(connect(places, name, ca_pem)) as api:
                runs = api.list_runs(TIMEOUT_S)
        except AgentError:
            return cycle.running
        return any(run.needs_superlink(cycle.seen.now) for run in runs)

    def _shown(self, cycle: Cycle, host: str) -> GatewayShown | None:
        """Return the gateway's part of HAProxy's work, None where there is none."""
        if self._gateway is None or cycle.seen.dry:
            return None
        return self._gateway.frontend(cycle, host, _named(host, cycle))

    def _fleet(
        self,
        cycle: Cycle,
        places: Endpoints,
        public: Address,
        ca_pem: str | None,
        shown: GatewayShown | None,
    ) -> None:
        dial, settings = places.fleet.dial, cycle.seen.settings
        if container_spec.proxied(settings):
            offered = settings.appio_listen is not None
            if not cycle.seen.dry:
                self._proxy.keep(places, cycle.seen.keyring, offers_appio=offered, gateway=shown)
            self._proxy.check(dial, ca_pem, server_hostname=public.host, timeout_s=TIMEOUT_S)
            cycle.report.set_condition(
                "proxy", Mark.OK, f"the SuperLink answers through HAProxy at {dial}"
            )
        if ca_pem is None:
            self._prober.probe_tcp(dial, TIMEOUT_S)
            cycle.report.set_condition(
                "endpoint", Mark.OK, f"Fleet API answers at {dial}, without TLS"
            )
            return
        alpn = ALPN_GRPC if places.fleet.transport is Transport.GRPC else ALPN_HTTP
        seen = self._prober.probe_tls(
            dial, ca_pem, server_hostname=public.host, alpn=alpn, timeout_s=TIMEOUT_S
        )
        cycle.report.set_condition("endpoint", Mark.OK, f"Fleet API answers at {public} with TLS")
        cycle.report.set_condition("tls", Mark.OK, f"certificate until {seen.not_after:%Y-%m-%d}")

    def _room(self) -> None:
        """Raise AgentError on a full disk: Flower still serves there, but can store nothing new."""
        room = files.room_bytes(self._database)
        if room is not None and room < ROOM_BYTES:
            message = f"The SuperLink's database cannot grow: {room} bytes left in {self._database}"
            raise ControlDatabaseError("control.database", message, retryable=True)

    def _enrol(
        self, cycle: Cycle, spec: RoleSpec, nodes: tuple[NodeInfo, ...], api: Control
    ) -> None:
        """Let SuperNodes in, and give them their partitions, where they need keys."""
        if not spec.node_auth:
            cycle.report.set_condition("enrolment", Mark.OFF, "SuperNodes need no key")
            return
        self._enroller.enrol(cycle, nodes, api)
        partition_assigner.assign(cycle, nodes, self._enroller)

    def _note_nodes(self, cycle: Cycle, nodes: tuple[NodeInfo, ...], listens: Address) -> int:
        online = sum(node.status is NodeStatus.ONLINE for node in nodes)
        cycle.report.published = dataclasses.replace(cycle.report.published, nodes=online)
        enroller = self._enroller
        pins = cycle.state.pins
        seen = expected_nodes.expected_nodes(
            nodes,
            pins,
            enroller.claims,
            enroller.members,
            growing=enroller.growing(cycle.seen.monotonic),
            sites=partition_assigner.sites(cycle),
        )
        cycle.report.set_condition(
            "nodes", Mark.OK if seen.online >= seen.whole else Mark.WAITING, str(seen)
        )
        cycle.report.warn(*seen.findings)
        cycle.report.supernodes = node_table.node_table(
            nodes, pins, enroller.claims, enroller.names
        )
        expected = max(seen.whole, enroller.expected)
        self._note_firewall(cycle, listens, expected=expected, online=online)
        return online

    def _note_firewall(self, cycle: Cycle, listens: Address, *, expected: int, online: int) -> None:
        seen = self._firewalls.look(listens, cycle.seen.monotonic, expected=expected, online=online)
        if seen is None:
            return
        detail, found = seen
        cycle.report.set_condition("firewall", Mark.WAITING if found else Mark.OK, detail)
        if found is not None:
            cycle.report.warn(found)

    def _tell_ca(self, cycle: Cycle, ca_pem: str, nodes: tuple[NodeInfo, ...]) -> None:
        fingerprint, enroller = certificates.fingerprint(ca_pem), self._enroller
        cycle.report.published = dataclasses.replace(
            cycle.report.published, ca_pem=ca_pem, ca_fingerprint=fingerprint
        )
        cycle.report.trusts(fingerprint)
        found = refusals.finding(
            nodes, cycle.state.pins, enroller.claims, enroller.members, fingerprint
        )
        if found is not None:
            cycle.report.warn(found)


def published(settings: Settings, host: str) -> Address:
    """Return the address for nodes: FLOWER_PUBLIC_ADDRESS, else the Fleet API's own address."""
    port = container_spec.fleet_port(settings)
    return parse_address(settings.public_address or host_text(host), port)


def own_address(wanted: str | None, facts: HostFacts, variables: Mapping[str, str]) -> str:
    """Return the address of `wanted` on this machine. Raises AgentError ``address.…``."""
    return network.fleet_address(wanted, facts.interfaces, facts.default_interface, variables)


def connect(places: Endpoints, public: Address, ca_pem: str | None) -> Control:
    """Return a new client of the Control API."""
    at, pem = places.control, ca_pem.encode() if ca_pem else None
    return Control(at.dial, at.transport, pem, server_hostname=public.host)


def control_trust(
    settings: Settings, public: Address, keyring: Keyring
) -> tuple[Address, str | None]:
    """Return what the certificate of the Control API names, and the CA that it is of."""
    if container_spec.proxied(settings):
        public, keyring = Address(haproxy_config.NAME, public.port), keyring.loopback
    return public, keyring.held_ca() if settings.tls else None


def host_text(host: str) -> str:
    """Return a host in the form of `parse_address`: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def named_for_apps(public: Address) -> str:
    """Return the name with which the local SuperExec reaches the AppIo; empty for none.

    A public CA issues no certificate for a private address. Inside the SuperExec's container the
    name stands for the VM's own address.
    """
    return "" if is_ip(public.host) else public.host


def commands(
    settings: Settings, places: Endpoints, public: Address, ca: pathlib.Path | None
) -> tuple[tuple[str, str], ...]:
    """Return the commands for a laptop: to reach the Control API, and to submit an app."""
    port, host = places.control.dial.port, public.host
    tunnel = f"ssh -N -L {port}:{host_text(places.control.dial.host)}:{port} root@{host}"
    found = [("reach the Control API from another machine", tunnel)]
    if ca is not None:
        found.append(("fetch the CA", f"scp root@{host_text(host)}:{ca} ca.crt"))
    trusts = 'root-certificates = "ca.crt"' if ca else "insecure = true"
    if settings.version.release < flower_versions.CONFIG_TOML_SINCE:
        where = "[tool.flwr.federations.opennebula]"
        note = f'{where}\naddress = "127.0.0.1:{port}"\n{trusts}'
        found.append(("put into the app's pyproject.toml", note))
    else:
        trusts = trusts.replace("ca.crt", "/ABSOLUTE/PATH/ca.crt")
        note = f'[superlink.opennebula]\naddress = "127.0.0.1:{port}"\n{trusts}'
        found.append(("put into ~/.flwr/config.toml", note))
    return (*found, ("submit", "flwr run . opennebula --stream"))


def _attaches_here(settings: Settings, places: Endpoints) -> bool:
    """Return whether a SuperExec on this VM dials the AppIo by the certificate that nodes see."""
    shown = places.appio.tls and not container_spec.proxied(settings)
    return shown and container_spec.has_superexec(settings)


def _rivals(facts: HostFacts) -> Finding:
    names = " and ".join(facts.rival_routes)
    return warning(
        "address.two_routes",
        f"{names} have default routes of the same metric; that of {facts.default_interface} counts",
    )


def _named(host: str, cycle: Cycle) -> str:
    """Return an address for nodes, also if `host` means every address."""
    return own_address(None, cycle.seen.host, cycle.seen.variables) if is_any(host) else host


def _beyond(host: str) -> tuple[str, ...]:
    return () if is_any(host) or is_loopback(host) else (host,)
