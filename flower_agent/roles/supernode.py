"""The role of a SuperNode: find the SuperLink, trust its CA, and see the connection.

Flower does not report a TLS mistake; it only retries. So the agent makes a TLS handshake with the
endpoint before it starts the container. Whether the node is connected comes from the SuperNode's
own log (`exit_codes.node_connection`) and from the kernel's table of connections.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator

import structlog

from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Transport
from flower_agent.config.settings import PARTITION_KEYS, Settings
from flower_agent.cycle import Cycle, Preparation, Running
from flower_agent.docker.containers import Component
from flower_agent.enrolment import partitions, superlink_trust
from flower_agent.enrolment.node_key import NodeKey, NodeKeys
from flower_agent.enrolment.partition_watch import PartitionWatch
from flower_agent.flower import command_line, container_spec, exit_codes, lost_messages
from flower_agent.flower.command_line import Trust
from flower_agent.flower.container_spec import RoleSpec
from flower_agent.flower.endpoint_check import EndpointCheck
from flower_agent.flower.health import Prober
from flower_agent.flower.lost_messages import Loss, Messages
from flower_agent.flower.peer_check import Liveness, PeerEndpoint
from flower_agent.host.connections import Connections
from flower_agent.model import errors, foreign_text
from flower_agent.model import pem as model_pem
from flower_agent.model.address import Address
from flower_agent.model.errors import (
    AgentError,
    EndpointError,
    Finding,
    GhostError,
    KeyMismatchError,
    KeyUnknownError,
    PeerLostError,
    Severity,
    StillSearchingError,
    warning,
)
from flower_agent.model.lifecycle import Phase
from flower_agent.model.pem import SYSTEM
from flower_agent.model.published import Published
from flower_agent.model.state import Partition
from flower_agent.model.status import Link, Mark
from flower_agent.onegate.discovery import MAX_WORDS, SuperLinkOffer, mixed_versions
from flower_agent.onegate.superlink_search import SuperLinkSearch
from flower_agent.roles import appio
from flower_agent.runs import client_apps
from flower_agent.runs.app_directories import AppDirectories
from flower_agent.tls import certificates, trust

log = structlog.get_logger()

TIMEOUT_S = 3.0
LOST_AFTER_S = 10.0
"""If the connection is lost for longer, the SuperNode searches for its SuperLink again."""

HOLDS_AFTER_S = 2.0
"""Flower 1.23 does not log that it has connected; a refused SuperNode ends sooner than this."""

DEAF_AFTER_S = 300.0
"""The agent restarts a SuperNode that lost a message and logs no other for this long."""

REPLACE_KEY_AFTER_S = 600.0
"""After this time, a refused key that once worked was unregistered, which is permanent. A SuperLink
that lost its database registers all keys again much sooner."""

RESTARTS = "The agent restarts the SuperNode. Stop the run that waits: flower-agent stop RUN"

OVERLAP = datetime.timedelta(seconds=2)
"""Each read of a log begins this long before the last read: lines may come late."""


@dataclasses.dataclass(slots=True)
class _LogPosition:
    """The important lines so far of the log of one container start."""

    started_at: datetime.datetime
    since: datetime.datetime
    """Docker's time; later lines may be unread."""

    read_at: float
    """Monotonic seconds of the last look."""

    lines: tuple[str, ...] = ()


class SuperNodeController:
    """The work of a SuperNode VM apart from its containers."""

    def __init__(
        self,
        prober: Prober,
        search: SuperLinkSearch,
        keys: NodeKeys,
        look: EndpointCheck,
        connections: Connections,
        *,
        liveness: Liveness | None = None,
        home: EndpointCheck | None = None,
        apps: AppDirectories,
        assigned: PartitionWatch | None = None,
        scale: float = 1.0,
    ) -> None:
        self._liveness = liveness
        self._assigned = assigned
        self._home = home
        self._prober = prober
        self._superlink_search = search
        self._keys = keys
        self._look = look
        self._connections = connections
        self._apps = apps
        self._scale = scale
        self._key: NodeKey | None = None
        self._linked: tuple[datetime.datetime, float] | None = None
        self._seen: _LogPosition | None = None
        self._lost_at: float | None = None
        self._messages = Messages()
        self._loss: Loss | None = None
        self._loss_at: datetime.datetime | None = None
        self._deaf_since: float | None = None

    def introduction(self, settings: Settings, vmid: str | None) -> Published:
        """Return what the first body of a start tells: the key, so that it is enrolled soon."""
        key = None
        if superlink_trust.may_have_key(settings):
            with contextlib.suppress(
                AgentError
            ):  # the next cycle meets the same error and reports it
                key = self._key_of(settings, vmid)
        numbered = None
        if settings.is_numbered:  # before a SuperLink that assigns partitions gives it another
            given = dict(settings.node_config or ())
            numbered = partitions.read("/".join(given[key] for key in PARTITION_KEYS))
        return Published(node_key=key.public if key else None, partition=numbered)

    def prepare(self, cycle: Cycle) -> Preparation:
        """Return the trusted CA, the SuperLink, this node's key and its partition.

        Raises AgentError ``discover.…``, ``onegate.…`` or ``tls.…`` while any is missing.
        """
        settings = cycle.seen.settings
        lost = superlink_trust.no_source(settings) if cycle.seen.client is None else None
        if lost:
            raise errors.of(lost)
        found = self._superlink_search.find(
            settings,
            cycle.seen.client,
            cycle.state,
            now=cycle.seen.monotonic,
            running=cycle.running,
        )
        # OneGate can be wrong or late: a node with a working connection keeps its endpoint.
        found = self._connected(cycle, found)
        try:
            wanted = self._trust(cycle, found)
            key = self._node_key(cycle, found)
        except AgentError:
            self._superlink_search.forget()  # OneGate may have a newer value
            raise
        mixed = mixed_versions(settings.version, found.version)
        if mixed and mixed.severity is Severity.ERROR:
            self._superlink_search.forget()
            raise errors.of(mixed, retryable=True)
        if mixed:
            cycle.report.warn(mixed)
        config = self._node_config(cycle, found)
        cycle.state = dataclasses.replace(
            cycle.state, superlink=found.endpoint, superlink_vmid=found.vmid
        )
        cycle.report.published = dataclasses.replace(
            cycle.report.published, endpoint=found.endpoint, busy=False
        )
        version = found.version[:MAX_WORDS] or None
        cycle.report.superlink = Link(
            endpoint=str(found.endpoint), vmid=found.vmid, version=version
        )
        other = f", which publishes {found.published}" if found.published else ""
        cycle.report.set_condition("superlink", Mark.OK, f"{cycle.report.superlink}{other}")
        spec = RoleSpec(
            superlink=found.endpoint,
            trust=superlink_trust.trust_of(settings),
            node_config=config,
            node_key_file=key.path if key else "",
            node_key_digest=key.digest if key else "",
        )
        appio_wanted = None
        if settings.appio_listen is not None:
            appio_wanted = appio.wanted(cycle, container_spec.clientappio(settings))
        return Preparation(trust=wanted, appio=appio_wanted, spec=spec)

    def may_start(self, cycle: Cycle) -> None:
        """Raise AgentError ``endpoint.…`` while the SuperLink does not answer as expected."""
        settings = cycle.seen.settings
        found = self._superlink_search.find(
            settings, cycle.seen.client, cycle.state, now=cycle.seen.monotonic
        )
        ca_pem = self._ca(cycle)
        try:
            asked = peer(settings, found.endpoint, cycle.seen.host.mtu)
            self._look.judge(asked, ca_pem, now=cycle.seen.monotonic)
        except EndpointError:
            self._superlink_search.forget()  # the SuperLink may have another address now
            raise

    def check(self, cycle: Cycle, running: Running) -> None:
        """Raise AgentError for the first thing that does not work."""
        settings = cycle.seen.settings
        try:
            self._prober.probe_serving(
                container_spec.health(settings, Component.SUPERNODE), TIMEOUT_S
            )
        except AgentError:
            # A SuperNode can log its end and live on: then only a stop helps.
            cycle.hung = self._gave_up(cycle, running)
            raise
        cycle.report.set_condition("health", Mark.OK, "gRPC health service answers SERVING")
        if settings.appio_listen is not None:
            appio.check_supernode(cycle, self._prober, container_spec.clientappio(settings))
        cycle.phase = Phase.PEER
        self._check_peer(cycle, running)
        self._lost_at = None
        failed = client_apps.follow(cycle, running, self._apps, 0)
        self._check_messages(cycle, failed)

    def _trust(self, cycle: Cycle, found: SuperLinkOffer) -> trust.CertificateSpec:
        settings = cycle.seen.settings
        wrong = superlink_trust.mismatch(settings, found)
        if wrong:
            raise errors.of(wrong, retryable=True)
        if not settings.tls:
            return trust.CertificateSpec(source=trust.CertificateSource.OFF)
        if settings.tls_ca_cert == SYSTEM:
            return trust.CertificateSpec(source=trust.CertificateSource.SYSTEM)
        held = cycle.seen.keyring.held_ca()
        pem = superlink_trust.trusted_ca(settings, found.ca_pem, cycle.state, held)
        seen = certificates.check_ca(pem, settings.ca_fingerprint, cycle.seen.now)
        # The first CA from OneGate is pinned. A CA from the settings needs no pin.
        if not settings.tls_ca_cert:
            cycle.state = dataclasses.replace(cycle.state, ca_pin=certificates.fingerprint(pem))
        cycle.report.trusts(seen.fingerprint)
        return trust.CertificateSpec(
            source=trust.CertificateSource.TRUSTED, ca_pem=certificates.canonical(pem)
        )

    def _node_key(self, cycle: Cycle, found: SuperLinkOffer) -> NodeKey | None:
        """Return the key to use, None if the SuperLink requires none; publish its public half."""
        settings = cycle.seen.settings
        self._key = key = None
        if superlink_trust.may_have_key(settings):
            key = self._key_of(settings, cycle.state.vmid, dry=cycle.seen.dry)
        wanted = self._wants_key(cycle, found, key)
        if key is None:  # a dry cycle creates no key, but its plan shows the key's path
            return NodeKey(str(self._keys.path(cycle.state.vmid)), "", "") if wanted else None
        cycle.report.published = dataclasses.replace(cycle.report.published, node_key=key.public)
        if not wanted:
            cycle.report.set_condition("key", Mark.OFF, "the SuperLink requires no key")
            return None
        if self._unknown_for_long(cycle):
            key = self._replaced(cycle, key)
        self._key, shown = key, model_pem.node_key_fingerprint(key.public)
        # A key that once worked is registered: then a refusal means the old connection.
        ghost = key.public == cycle.state.worked_key
        more = ", or still counts the last connection as active" if ghost else ""
        if not ghost and settings.node_private_key is None:
            cycle.report.warn(*self._damaged(cycle.state.vmid))
        cycle.awaited = f"the SuperLink does not know the key {shown}{more}"
        cycle.report.set_condition("key", Mark.OK, shown)
        return key

    def _damaged(self, vmid: str | None) -> Iterator[Finding]:
        """Yield a warning if the key, which has not worked yet, replaced a damaged one."""
        lost = self._keys.damaged(vmid)
        if lost.exists():
            path = self._keys.path(vmid)
            message = (
                f"{path} was damaged; the agent wrote a new one and kept the old content as {lost}"
            )
            yield warning("enrol.key_damaged", message)

    def _wants_key(self, cycle: Cycle, found: SuperLinkOffer, key: NodeKey | None) -> bool:
        """Return whether the node uses a key; the SuperLink's own refusal overrides OneGate.

        Any VM of the service may have written OneGate's value. So a working key stays in use until
        the SuperLink itself, which has proved its identity, has refused it for long. A container
        that works without a key stays without one until the SuperLink refuses it.
        """
        told = found.node_auth
        worked = key is not None and cycle.state.worked_key == key.public
        refused = cycle.wait is not None and isinstance(cycle.wait.error, KeyMismatchError)
        if refused:
            self._superlink_search.forget()  # OneGate may have a newer value
            told = True
        elif told is False and worked and not self._unknown_for_long(cycle):
            told = True
        elif told is True and cycle.running and cycle.state.superlink_auth is False:
            told = False
        if told is not found.node_auth:  # then OneGate's value must not count below
            found = dataclasses.replace(found, node_auth=None)
        if told is not None:
            cycle.state = dataclasses.replace(cycle.state, superlink_auth=told)
        return superlink_trust.wants_key(cycle.seen.settings, found, cycle.state)

    def _unknown_for_long(self, cycle: Cycle) -> bool:
        """Return whether the SuperLink has refused this node's key for a long time."""
        patience_s = REPLACE_KEY_AFTER_S * self._scale
        return (
            cycle.wait is not None
            and isinstance(cycle.wait.error, KeyUnknownError)
            and cycle.seen.monotonic - cycle.wait.since > patience_s
        )

    def _connected(self, cycle: Cycle, found: SuperLinkOffer) -> SuperLinkOffer:
        """Return `found`, with the present endpoint of this node's container while that works.

        A different value at OneGate is then older than the connection, or from another VM. A
        SuperLink that moved ends its connections, and does not answer at the old endpoint.
        """
        known = cycle.state.superlink
        fixed = cycle.seen.settings.server_address is not None
        if not cycle.running or fixed or known is None or known == found.endpoint:
            return found
        if self._connections.held(known, now=cycle.seen.monotonic) or self._answers(cycle, known):
            return dataclasses.replace(found, endpoint=known, published=found.endpoint)
        return found

    def _answers(self, cycle: Cycle, known: Address) -> bool:
        """Return whether a trusted SuperLink answers at its known endpoint, or the test still runs.

        With HTTP no connection stays open between two calls, and the addresses of a name are not
        known at once.
        """
        if self._home is None:
            return False
        asked = peer(cycle.seen.settings, known, cycle.seen.host.mtu)
        try:
            self._home.judge(asked, self._ca(cycle), now=cycle.seen.monotonic)
        except StillSearchingError:
            return True
        except AgentError:
            return False
        return True

    def _ca(self, cycle: Cycle) -> str | None:
        """Return the CA of the SuperLink's certificate; None: the system's store."""
        system = superlink_trust.trust_of(cycle.seen.settings) is Trust.SYSTEM
        return None if system else cycle.seen.keyring.held_ca()

    def _key_of(self, settings: Settings, vmid: str | None, *, dry: bool = False) -> NodeKey | None:
        """Return this VM's key; a dry cycle creates none."""
        if settings.node_private_key is not None:
            return self._keys.give(settings.node_private_key, dry=dry)
        return self._keys.held(vmid) if dry else self._keys.own(vmid)

    def _replaced(self, cycle: Cycle, key: NodeKey) -> NodeKey:
        """Return a new key instead of one that once worked and is now unregistered."""
        own = cycle.seen.settings.node_private_key is None
        if not own or cycle.state.worked_key != key.public or cycle.seen.dry:
            return key
        log.warning("node_key.replaced", key=model_pem.node_key_fingerprint(key.public))
        cycle.state = dataclasses.replace(cycle.state, worked_key=None)
        made = self._keys.renew(cycle.state.vmid)
        cycle.report.published = dataclasses.replace(cycle.report.published, node_key=made.public)
        return made

    def _node_config(
        self, cycle: Cycle, found: SuperLinkOffer | None = None
    ) -> tuple[tuple[str, str], ...]:
        """Return the partition, as far as it is automatic, and what FLOWER_NODE_CONFIG adds."""
        config = cycle.seen.settings.node_config or ()
        if not cycle.seen.settings.is_numbered:
            given = dict(config)
            part = self._partition(cycle, found, given)
            automatic = zip(PARTITION_KEYS, map(str, dataclasses.astuple(part)), strict=True)
            config = (*(pair for pair in automatic if pair[0] not in given), *config)
        number, count = (command_line.scalar(dict(config)[key]) for key in PARTITION_KEYS)
        if type(number) is int and type(count) is int and number >= 0 and count >= 0:
            cycle.report.published = dataclasses.replace(
                cycle.report.published, partition=Partition(number, count)
            )
            cycle.report.set_condition("partition", Mark.OK, f"{number} of {count}")
        cycle.report.set_condition("node_config", Mark.OK, command_line.node_config_words(config))
        return config

    def _partition(
        self, cycle: Cycle, found: SuperLinkOffer | None, given: dict[str, str]
    ) -> Partition:
        if self._assigned is not None and found is not None:
            assigned = self._assigned.partition(cycle, found, given)
            if assigned is not None:
                return assigned
        part = self._superlink_search.partition(cycle.seen.client, cycle.state)
        if part is None:
            cycle.report.warn(
                warning("partition.default", "outside a service this node has partition 0 of 1")
            )
            return Partition(0, 1)
        cycle.state = dataclasses.replace(cycle.state, partition=part)
        return part

    def _gave_up(self, cycle: Cycle, running: Running) -> bool:
        """Return whether the log says that the SuperNode gave up; its process may live on."""
        peer = exit_codes.node_connection(self._read(cycle, running).split("\n"))
        return peer.failed or peer.refusal is exit_codes.Refusal.FORGOTTEN

    def _check_peer(self, cycle: Cycle, running: Running) -> None:
        peer = exit_codes.node_connection(self._read(cycle, running).split("\n"))
        endpoint = cycle.state.superlink
        cycle.hung = peer.failed
        if peer.clock_refused:
            raise AgentError(
                "peer.clock", f"the SuperLink at {endpoint} refuses this VM's clock", retryable=True
            )
        band = flower_versions.band(cycle.seen.settings.version)
        # Only gRPC keeps a connection open; with HTTP the log alone decides.
        linked = band.fleet is not Transport.GRPC or (
            endpoint is not None and self._connections.held(endpoint, now=cycle.seen.monotonic)
        )
        # Flower 1.23 logs nothing about a connection, so the open connection must be enough.
        silent = not band.announces_node and not peer.refusal and not peer.failed
        # A proven silence of the peer counts more than a connection that looks open.
        mute = self._mute(cycle)
        if mute is not None and (linked or not isinstance(mute, PeerLostError)):
            self._lose(cycle)
            raise mute
        if linked and (peer.connected or (silent and self._holds(cycle, running))):
            if peer.node_id:
                cycle.report.published = dataclasses.replace(
                    cycle.report.published, node_id=peer.node_id
                )
            if self._key is not None:
                cycle.state = dataclasses.replace(cycle.state, worked_key=self._key.public)
            cycle.report.set_condition(
                "peer", Mark.OK, f"connected to {endpoint} as node {peer.node_id or '?'}"
            )
            return
        self._lose(cycle)
        # The log's refusals say more than a missing connection, so they come first.
        if peer.refusal is exit_codes.Refusal.UNREGISTERED:
            raise KeyUnknownError("enrol.waiting", cycle.awaited or peer.detail, retryable=True)
        if peer.refusal is exit_codes.Refusal.GHOST:
            message = f"the SuperLink at {endpoint} still counts the last connection as active"
            raise GhostError("peer.ghost", message, retryable=True)
        if peer.refusal is exit_codes.Refusal.NO_KEY:
            raise KeyMismatchError(
                "enrol.mismatch", "the SuperLink requires node keys", retryable=True
            )
        message = f"not connected to {endpoint}: {peer.detail or 'no connection is established'}"
        if peer.node_id:
            raise PeerLostError("peer.lost", message, retryable=True)
        raise AgentError("peer.waiting", message, retryable=True)

    def _mute(self, cycle: Cycle) -> AgentError | None:
        """Return the proven fault of a SuperLink that does not answer, or not to large packets."""
        endpoint = cycle.state.superlink
        if self._liveness is None or endpoint is None or cycle.seen.dry:
            return None
        asked = peer(cycle.seen.settings, endpoint, cycle.seen.host.mtu)
        found = self._liveness.judge(asked, cycle.seen.monotonic)
        cycle.look_again_in(self._liveness.wait_s(cycle.seen.monotonic))
        return found

    def _lose(self, cycle: Cycle) -> None:
        """Record that the connection is lost; after a while search for the SuperLink again."""
        if self._lost_at is None:
            self._lost_at = cycle.seen.monotonic
            if self._home is not None:
                self._home.forget()
        if cycle.seen.monotonic - self._lost_at > LOST_AFTER_S:
            self._superlink_search.forget()

    def _check_messages(self, cycle: Cycle, failed: datetime.datetime | None) -> None:
        """Report a lost message; the last ClientApp failed at the time `failed`.

        Raises AgentError ``run.message_lost`` if Flower accepted no other message for long.
        """
        if self._messages.loss != self._loss:
            self._loss, self._loss_at = self._messages.loss, cycle.seen.now
        client_apps.lost(cycle, self._loss, self._loss_at or cycle.seen.now, failed)
        version = cycle.seen.settings.version
        if not (self._messages.stuck and flower_versions.band(version).deaf_after_loss):
            self._deaf_since = None
            return
        if self._deaf_since is None:
            self._deaf_since = cycle.seen.monotonic
        # After a stopped run the log looks the same for a minute, but then the node continues.
        if cycle.seen.monotonic - self._deaf_since > DEAF_AFTER_S * self._scale:
            cycle.hung = True
            message = (
                f"Flower {version} accepts no message after a message that it could not receive"
            )
            raise AgentError(lost_messages.CODE, message, RESTARTS, retryable=True)

    def _holds(self, cycle: Cycle, running: Running) -> bool:
        """Return whether the connection lasted longer than after a refused key (Flower 1.23)."""
        if self._linked is None or self._linked[0] != running.started_at:
            self._linked = (running.started_at, cycle.seen.monotonic)
        return (
            self._key is None
            or cycle.seen.monotonic - self._linked[1] > HOLDS_AFTER_S * self._scale
        )

    def _read(self, cycle: Cycle, running: Running) -> str:
        """Return the important lines of this container start."""
        started_at = running.started_at
        if self._seen is None or self._seen.started_at != started_at:
            self._seen = _LogPosition(started_at, started_at, cycle.seen.monotonic)
            self._messages = dataclasses.replace(self._messages, stuck=False)
        passed = datetime.timedelta(seconds=cycle.seen.monotonic - self._seen.read_at)
        since = min(self._seen.since, cycle.seen.now - passed - OVERLAP)
        # After the clock was set back, new lines have times before the start.
        if cycle.seen.now >= started_at:
            since = max(since, started_at)
        text = running.read_log(since)
        self._seen.since, self._seen.read_at = cycle.seen.now - OVERLAP, cycle.seen.monotonic
        new = tuple(foreign_text.lines(text, first=foreign_text.FIRST_LINES))
        band = flower_versions.band(cycle.seen.settings.version)
        self._messages = lost_messages.follow(self._messages, new, band)
        self._seen.lines = exit_codes.telling((*self._seen.lines, *new))
        return "\n".join(self._seen.lines)


def peer(settings: Settings, endpoint: Address, mtu: int) -> PeerEndpoint:
    """Return how a SuperNode's SuperLink is asked whether it answers."""
    row = flower_versions.band(settings.version)
    call = flower_versions.PROBE_PATH if row.proxied else ""
    return PeerEndpoint(endpoint, settings.tls, row.fleet is Transport.HTTP, mtu, call)
