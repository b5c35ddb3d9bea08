"""The role of a SuperExec VM: connect to an AppIo on another VM, and see the connection.

Whom it trusts: TLS_CA_CERT, else the CA that the AppIo's VM publishes over OneGate, pinned as a
SuperNode pins its SuperLink's.
"""

import dataclasses

from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Transport
from flower_agent.config.settings import Settings
from flower_agent.config.types import Plugin
from flower_agent.cycle import Cycle, Preparation, Running
from flower_agent.docker.containers import Component
from flower_agent.enrolment import superlink_trust
from flower_agent.flower import container_spec
from flower_agent.flower.command_line import Trust
from flower_agent.flower.container_spec import RoleSpec
from flower_agent.flower.endpoint_check import EndpointCheck
from flower_agent.flower.health import Prober
from flower_agent.flower.peer_check import Liveness, PeerEndpoint
from flower_agent.host.connections import Connections
from flower_agent.model import errors
from flower_agent.model.address import Address
from flower_agent.model.errors import (
    AgentError,
    EndpointError,
    Finding,
    OneGateError,
    Severity,
    StillSearchingError,
)
from flower_agent.model.lifecycle import Phase
from flower_agent.model.pem import SYSTEM
from flower_agent.model.status import Mark
from flower_agent.onegate import appio_discovery
from flower_agent.paths import Paths
from flower_agent.roles import appio
from flower_agent.runs import app_directories, client_apps
from flower_agent.runs.app_directories import AppDirectories
from flower_agent.tls import certificates, trust

TIMEOUT_S = 3.0
LOST_AFTER_S = 10.0
"""If the connection is lost for longer, ask OneGate again which VM offers the AppIo."""

SOURCES = {
    Trust.CA: trust.CertificateSource.TRUSTED,
    Trust.SYSTEM: trust.CertificateSource.SYSTEM,
    Trust.INSECURE: trust.CertificateSource.OFF,
}

HINTS = {
    "endpoint.refused": "On the AppIo's VM set FLOWER_APPIO_LISTEN to the value of "
    "FLOWER_APPIO_ADDRESS here, and check its flower-agent status.",
    "endpoint.plaintext": "Set TLS_ENABLED and FLOWER_VERSION to the same values on both VMs.",
    "endpoint.wrong_name": "Set FLOWER_TLS_SANS on the AppIo's VM to the host name here.",
    "endpoint.not_flower": "Check the port in FLOWER_APPIO_ADDRESS.",
    "endpoint.untrusted": "Compare fingerprints: ca here, appio_ca (SuperNode) or ca (SuperLink) "
    "in flower-agent status there.",
}
"""Remedies for an AppIo that does not answer as expected; the usual ones are for a SuperNode."""


class SuperExecController:
    """The work of a SuperExec VM apart from its container."""

    def __init__(
        self,
        prober: Prober,
        search: appio_discovery.AppIoSearch,
        look: EndpointCheck,
        connections: Connections,
        *,
        liveness: Liveness,
        apps: AppDirectories,
        paths: Paths,
    ) -> None:
        self._liveness = liveness
        self._prober = prober
        self._search = search
        self._look = look
        self._connections = connections
        self._apps = apps
        self._paths = paths
        self._lost_at: float | None = None

    def prepare(self, cycle: Cycle) -> Preparation:
        """Return the trusted CA, if the AppIo can have TLS.

        Raises AgentError ``discover.…``, ``onegate.…``, ``tls.…``, ``setting.conflict`` or
        ``version.mixed`` while there is none.
        """
        whom = trust_of(cycle.seen.settings)
        wanted = trust.CertificateSpec(source=SOURCES[whom])
        if whom is Trust.CA:
            wanted = dataclasses.replace(wanted, ca_pem=self._ca(cycle))
        return Preparation(trust=wanted, spec=RoleSpec(trust=whom))

    def may_start(self, cycle: Cycle) -> None:
        """Raise AgentError ``endpoint.…`` while the AppIo does not answer as expected."""
        settings = cycle.seen.settings
        whom = trust_of(settings)
        ca_pem = cycle.seen.keyring.held_ca() if whom is Trust.CA else None
        try:
            self._look.judge(peer(settings, cycle.seen.host.mtu), ca_pem, now=cycle.seen.monotonic)
        except AgentError as error:
            found = error.finding
            if isinstance(error, EndpointError):
                self._search.forget()  # another VM may have the address now
            hint = HINTS.get(found.code, found.hint)
            raise error.reworded(found.message, hint, retryable=True) from error

    def check(self, cycle: Cycle, running: Running) -> None:
        """Raise AgentError while the SuperExec is not connected."""
        settings = cycle.seen.settings
        self._prober.probe_serving(container_spec.health(settings, Component.SUPEREXEC), TIMEOUT_S)
        cycle.report.set_condition("health", Mark.OK, "gRPC health service answers SERVING")
        cycle.phase = Phase.PEER
        where = _attach(settings)
        if self._connections.held(where, now=cycle.seen.monotonic):
            self._lost_at = None
            self._alive(cycle)
            cycle.report.set_condition(
                "peer", Mark.OK, f"connected to {where} as {settings.superexec_plugin}"
            )
            limit = app_directories.outputs_limit(self._paths, settings)
            client_apps.follow(cycle, running, self._apps, limit)
            return
        self._lost_at = cycle.seen.monotonic if self._lost_at is None else self._lost_at
        if cycle.seen.monotonic - self._lost_at > LOST_AFTER_S:
            self._search.forget()
        message = f"no connection to {where} is established"
        raise AgentError("superexec.detached", message, retryable=True)

    def _alive(self, cycle: Cycle) -> None:
        """Raise AgentError ``peer.…`` if it is proven that the AppIo does not answer."""
        if cycle.seen.dry:
            return
        mute = self._liveness.judge(
            peer(cycle.seen.settings, cycle.seen.host.mtu), cycle.seen.monotonic
        )
        cycle.look_again_in(self._liveness.wait_s(cycle.seen.monotonic))
        if mute is not None:
            raise mute

    def _ca(self, cycle: Cycle) -> str:
        """Return the PEM of the trusted CA; a CA from OneGate is pinned."""
        settings = cycle.seen.settings
        pem = settings.tls_ca_cert or self._offered(cycle)
        seen = certificates.check_ca(pem, settings.ca_fingerprint, cycle.seen.now)
        if not settings.tls_ca_cert:
            cycle.state = dataclasses.replace(cycle.state, ca_pin=certificates.fingerprint(pem))
        cycle.report.trusts(seen.fingerprint)
        return certificates.canonical(pem)

    def _offered(self, cycle: Cycle) -> str:
        settings, held = (
            cycle.seen.settings,
            cycle.seen.keyring.held_ca() if cycle.state.ca_pin else "",
        )
        lost = no_source(settings) if cycle.seen.client is None and not held else None
        if lost:
            raise errors.of(lost)
        offer = self._offer(cycle, held)
        if offer is None:
            return held
        mixed = appio_discovery.mixed_versions(settings.version, offer.version)
        if mixed and mixed.severity is Severity.ERROR:
            self._search.forget()
            raise errors.of(mixed, retryable=True)
        if mixed:
            cycle.report.warn(mixed)
        cycle.state = dataclasses.replace(cycle.state, superlink_vmid=offer.vmid)
        try:
            return superlink_trust.trusted_ca(settings, offer.ca_pem, cycle.state, held)
        except AgentError:
            self._search.forget()  # OneGate may have a newer value
            raise

    def _offer(self, cycle: Cycle, held: str) -> appio_discovery.Offer | None:
        """Return OneGate's answer; None if the pinned CA must be enough."""
        settings = cycle.seen.settings
        if cycle.seen.client is None:
            return None
        try:
            return self._search.find(
                cycle.seen.client,
                _attach(settings),
                settings.superexec_plugin,
                known=cycle.state.superlink_vmid,
                now=cycle.seen.monotonic,
            )
        except (OneGateError, StillSearchingError) as error:
            away = cycle.running or isinstance(error, OneGateError)
            if away and held:
                return None
            raise


def trust_of(settings: Settings) -> Trust:
    """Return the trust of a SuperExec VM: a remote AppIo uses TLS if the version supports it."""
    if not appio.can_have_tls(settings):
        return Trust.INSECURE
    return Trust.SYSTEM if settings.tls_ca_cert == SYSTEM else Trust.CA


def no_source(settings: Settings) -> Finding | None:
    """Return why a SuperExec VM without OneGate could never trust its AppIo."""
    if trust_of(settings) is not Trust.CA or settings.tls_ca_cert:
        return None
    return Finding(
        "discover.no_source",
        "there is no OneGate token, and no TLS_CA_CERT",
        "Set TLS_CA_CERT to the CA of the AppIo's VM: /var/lib/flower-agent/tls/ca.crt of a "
        "SuperLink, tls/appio/ca.crt of a SuperNode.",
    )


def _attach(settings: Settings) -> Address:
    if settings.appio_address is None:
        raise ValueError("a SuperExec VM needs the address of an AppIo")
    return settings.appio_address


def peer(settings: Settings, mtu: int) -> PeerEndpoint:
    """Return how the AppIo that a lone SuperExec attaches to is asked whether it answers."""
    row = flower_versions.band(settings.version)
    tls = trust_of(settings) is not Trust.INSECURE
    proxied = row.proxied and settings.superexec_plugin is Plugin.SERVERAPP
    call = flower_versions.PROBE_APPIO_PATH if proxied else ""
    return PeerEndpoint(_attach(settings), tls, row.appio is Transport.HTTP, mtu, call)
