"""The SuperLink's duty: which certificates it wants, where it listens, whether it works.

Works means: its Fleet port answers a TLS handshake that chains to the CA which the agent publishes,
and the Control API answers. Flower's health service says SERVING even when the database cannot be
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
from flower_agent.enrolment import policy
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
from flower_agent.reporting import node_table
from flower_agent.roles import appio
from flower_agent.roles.server_certificate import ServerCertificate
from flower_agent.runs import app_directories
from flower_agent.runs.follower import Follower
from flower_agent.runs.submitter import Submitter
from flower_agent.tls import certificates, trust

TIMEOUT_S = 3.0

ROOM_BYTES = 1 << 20
"""A database that has less than this to grow will fail at the next node or round."""


class SuperLinkController:
    """What one SuperLink VM does beside its containers."""

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
    ) -> None:
        self._prober = prober
        self._certificate = certificate
        self._firewalls = firewalls
        self._enroller = enroller
        self._follower = follower
        self._reports = reports
        self._submitter = submitter
        self._paths = paths
        self._database = paths.superlink

    def prepare(self, cycle: Cycle) -> Preparation:
        """Return the wanted certificates and the address to listen on.

        Raises AgentError ``address.…``, ``control.exposed`` or ``tls.…``.
        """
        settings = cycle.seen.settings
        host = own_address(settings.address, cycle.seen.host, cycle.seen.variables)
        if cycle.seen.host.rival_routes and (settings.address is None or is_any(host)):
            cycle.report.warn(_rivals(cycle.seen.host))
        places = container_spec.endpoints(settings, host)
        _consent(settings, places)
        public = published(settings, _named(host, cycle))
        node_auth = self._enroller.wants_keys(cycle)
        cycle.report.publish(endpoint=public, node_auth=node_auth)
        wanted = self._trust(cycle, host, public)
        spec = RoleSpec(fleet_host=host, node_auth=node_auth)
        if wanted.source is trust.CertificateSource.GIVEN and _attaches_here(settings, places):
            spec = dataclasses.replace(spec, appio_name=named_for_apps(public))
        return Preparation(trust=wanted, spec=spec)

    def may_start(self, cycle: Cycle) -> None:
        """Nothing stands before a SuperLink."""

    def check(self, cycle: Cycle, running: Running) -> None:
        """Raise AgentError for the first thing that does not work."""
        settings = cycle.seen.settings
        host = running.spec.fleet_host
        places = container_spec.endpoints(settings, host)
        public = published(settings, _named(host, cycle))
        self._prober.probe_serving(container_spec.health(settings, Component.SUPERLINK), TIMEOUT_S)
        cycle.report.set_condition("health", Mark.OK, "gRPC health service answers SERVING")
        ca_pem = cycle.seen.keyring.held_ca() if settings.tls else None
        self._fleet(cycle, places, public, ca_pem)
        dial = functools.partial(connect, places, public, ca_pem)
        with contextlib.closing(dial()) as api:
            nodes = api.list_nodes(TIMEOUT_S)
            self._room()
            cycle.report.set_condition(
                "control", Mark.OK, f"Control API answers at {places.control.listen}"
            )
            if running.spec.node_auth:
                self._enroller.enrol(cycle, nodes, api)
            else:
                cycle.report.set_condition("enrolment", Mark.OFF, "SuperNodes need no key")
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
        if ca_pem:
            self._tell_ca(cycle, ca_pem)
        cycle.report.commands = commands(
            settings, places, public, cycle.seen.keyring.ca if ca_pem else None
        )

    def _trust(self, cycle: Cycle, host: str, public: Address) -> trust.CertificateSpec:
        settings, places = cycle.seen.settings, container_spec.endpoints(cycle.seen.settings, host)
        more = [*settings.tls_sans, *_beyond(settings.control_address.host)]
        more += _beyond(settings.appio_listen.host) if settings.appio_listen else ()
        own = trust.hosts(published=public.host, listen=_named(host, cycle), more=more)
        dialled = {public.host}
        if _attaches_here(settings, places) and not named_for_apps(public):
            dialled.add(places.appio.dial.host)  # the local SuperExec is as strict as any node
        return self._certificate.wanted(
            cycle, own, dialled, lambda: self._active(cycle, places, public)
        )

    def _active(self, cycle: Cycle, places: Endpoints, public: Address) -> bool:
        """Tell whether a run needs the SuperLink as it is.

        A SuperLink that runs and does not answer just now may have one all the same.
        """
        ca_pem = cycle.seen.keyring.held_ca()
        try:
            with contextlib.closing(connect(places, public, ca_pem)) as api:
                runs = api.list_runs(TIMEOUT_S)
        except AgentError:
            return cycle.running
        return any(run.needs_superlink(cycle.seen.now) for run in runs)

    def _fleet(self, cycle: Cycle, places: Endpoints, public: Address, ca_pem: str | None) -> None:
        dial = places.fleet.dial
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
        """Flower serves and lists on a full disk; nothing new can be kept."""
        room = files.room_bytes(self._database)
        if room is not None and room < ROOM_BYTES:
            message = f"The SuperLink's database cannot grow: {room} bytes left in {self._database}"
            raise ControlDatabaseError("control.database", message, retryable=True)

    def _note_nodes(self, cycle: Cycle, nodes: tuple[NodeInfo, ...], listens: Address) -> int:
        online = sum(node.status is NodeStatus.ONLINE for node in nodes)
        cycle.report.publish(nodes=online)
        enroller = self._enroller
        pins = cycle.state.pins
        seen = policy.expected_nodes(nodes, pins, enroller.claims, enroller.members)
        cycle.report.set_condition(
            "nodes", Mark.OK if seen.online >= seen.whole else Mark.WAITING, str(seen)
        )
        cycle.report.warn(*seen.findings)
        cycle.report.supernodes = node_table.node_table(nodes, pins, enroller.claims)
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

    def _tell_ca(self, cycle: Cycle, ca_pem: str) -> None:
        fingerprint = certificates.fingerprint(ca_pem)
        cycle.report.publish(ca_pem=ca_pem, ca_fingerprint=fingerprint)
        cycle.report.trusts(fingerprint)


def published(settings: Settings, host: str) -> Address:
    """Return what nodes dial: FLOWER_PUBLIC_ADDRESS, else where the Fleet API listens."""
    port = container_spec.fleet_port(settings)
    return parse_address(settings.public_address or host_text(host), port)


def own_address(wanted: str | None, facts: HostFacts, variables: Mapping[str, str]) -> str:
    """Return the address that `wanted` means on this machine. Raises AgentError ``address.…``."""
    return network.fleet_address(wanted, facts.interfaces, facts.default_interface, variables)


def connect(places: Endpoints, public: Address, ca_pem: str | None) -> Control:
    """Return a Control API of one's own."""
    at, pem = places.control, ca_pem.encode() if ca_pem else None
    return Control(at.dial, at.transport, pem, server_hostname=public.host)


def host_text(host: str) -> str:
    """Return a host as `parse_address` takes it."""
    return f"[{host}]" if ":" in host else host


def named_for_apps(public: Address) -> str:
    """Return the name by which a local SuperExec may dial a given certificate; empty for none.

    A public CA names no private address; the name leads to it inside that container alone.
    """
    return "" if is_ip(public.host) else public.host


def commands(
    settings: Settings, places: Endpoints, public: Address, ca: pathlib.Path | None
) -> tuple[tuple[str, str], ...]:
    """Return what an operator pastes on a laptop to reach the Control API, and to submit."""
    port, host = places.control.dial.port, public.host
    tunnel = f"ssh -N -L {port}:{host_text(places.control.dial.host)}:{port} root@{host}"
    found = [("reach the Control API from elsewhere", tunnel)]
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
    """Tell whether a SuperExec on this VM dials the AppIo with TLS."""
    return places.appio.tls and container_spec.has_superexec(settings)


def _consent(settings: Settings, places: Endpoints) -> None:
    """From 1.40 on the Control API shares the Fleet's port: the operator must want that."""
    if not flower_versions.band(settings.version).control_is_fleet:
        return
    if settings.control_address != places.fleet.listen:
        raise AgentError(
            "control.exposed",
            f"Flower {settings.version} serves the Control API at {places.fleet.listen} too, and "
            f"FLOWER_CONTROL_ADDRESS is {settings.control_address}",
            f"Set FLOWER_CONTROL_ADDRESS={places.fleet.listen} to consent, or use a version "
            "below 1.40.",
        )


def _rivals(facts: HostFacts) -> Finding:
    names = " and ".join(facts.rival_routes)
    return warning(
        "address.two_routes",
        f"{names} have default routes of the same metric; that of {facts.default_interface} counts",
    )


def _named(host: str, cycle: Cycle) -> str:
    """Return an address that nodes can dial, where `host` stands for every address."""
    return own_address(None, cycle.seen.host, cycle.seen.variables) if is_any(host) else host


def _beyond(host: str) -> tuple[str, ...]:
    return () if is_any(host) or is_loopback(host) else (host,)
