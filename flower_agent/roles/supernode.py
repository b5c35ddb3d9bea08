"""The SuperNode's duty: find the SuperLink, trust its CA, and be seen connected to it.

Flower says nothing of a TLS mistake but that it retries, so the agent shakes hands with the
endpoint itself before it starts the container. Connected is read from the SuperNode's own log
(`exits.peer`) and from the kernel's table of connections, never assumed.
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
from flower_agent.enrolment import superlink_trust
from flower_agent.enrolment.node_key import NodeKey, NodeKeys
from flower_agent.flower import command_line, container_spec, exit_codes, lost_messages
from flower_agent.flower.command_line import Trust
from flower_agent.flower.container_spec import RoleSpec
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
from flower_agent.onegate.endpoint_check import EndpointCheck
from flower_agent.onegate.superlink_search import SuperLinkSearch
from flower_agent.roles import appio
from flower_agent.runs import client_apps
from flower_agent.runs.app_directories import AppRuns
from flower_agent.tls import certificates, trust

log = structlog.get_logger()

TIMEOUT_S = 3.0
LOST_AFTER_S = 10.0
"""A SuperNode that is away for longer looks for its SuperLink anew."""

HOLDS_AFTER_S = 2.0
"""Flower 1.23 does not say that it has connected; one that is turned away ends sooner than this."""

DEAF_AFTER_S = 300.0
"""A SuperNode that lost a message, and logs of no other for so long, is started again."""

REPLACE_KEY_AFTER_S = 600.0
"""A key that worked, and is refused for so long, was unregistered, which is for ever. A SuperLink
that lost its database registers all keys again much sooner."""

RESTARTS = "The agent restarts the SuperNode; stop the run, which waits: flower-agent stop RUN"

OVERLAP = datetime.timedelta(seconds=2)
"""A log is read again from so long before the last look."""


@dataclasses.dataclass(slots=True)
class _LogPosition:
    """What the log of one container start told so far; only the lines that matter are kept."""

    started_at: datetime.datetime
    since: datetime.datetime
    """Docker's time from which on lines may not have been read yet."""

    read_at: float
    """Monotonic seconds of the last look."""

    lines: tuple[str, ...] = ()


class SuperNodeController:
    """What one SuperNode VM does beside its containers."""

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
        apps: AppRuns,
        scale: float = 1.0,
    ) -> None:
        self._liveness = liveness
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
            with contextlib.suppress(AgentError):  # the cycle that follows meets it and reports it
                key = self._key_of(settings, vmid)
        return Published(node_key=key.public if key else None)

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
        config = self._node_config(cycle)
        cycle.remember(superlink=found.endpoint, superlink_vmid=found.vmid)
        cycle.report.publish(endpoint=found.endpoint, busy=False)
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
        """Raise AgentError ``endpoint.…`` while the SuperLink does not answer as it should."""
        settings = cycle.seen.settings
        found = self._superlink_search.find(
            settings, cycle.seen.client, cycle.state, now=cycle.seen.monotonic
        )
        ca_pem = self._ca(cycle)
        try:
            asked = peer(settings, found.endpoint, cycle.seen.host.mtu)
            self._look.judge(asked, ca_pem, now=cycle.seen.monotonic)
        except EndpointError:
            self._superlink_search.forget()  # it may have moved
            raise

    def check(self, cycle: Cycle, running: Running) -> None:
        """Raise AgentError for the first thing that does not work."""
        settings = cycle.seen.settings
        try:
            self._prober.probe_serving(
                container_spec.health(settings, Component.SUPERNODE), TIMEOUT_S
            )
        except AgentError:
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
        if not settings.tls_ca_cert:
            cycle.remember(ca_pin=certificates.fingerprint(pem))
        cycle.report.trusts(seen.fingerprint)
        return trust.CertificateSpec(
            source=trust.CertificateSource.TRUSTED, ca_pem=certificates.canonical(pem)
        )

    def _node_key(self, cycle: Cycle, found: SuperLinkOffer) -> NodeKey | None:
        """Return the key to use, None where the SuperLink wants none; publishes its public half."""
        settings = cycle.seen.settings
        self._key = key = None
        if superlink_trust.may_have_key(settings):
            key = self._key_of(settings, cycle.state.vmid, dry=cycle.seen.dry)
        wanted = self._wants_key(cycle, found, key)
        if key is None:
            return NodeKey(str(self._keys.path(cycle.state.vmid)), "", "") if wanted else None
        cycle.report.publish(node_key=key.public)
        if not wanted:
            cycle.report.set_condition("key", Mark.OFF, "the SuperLink wants no key")
            return None
        if self._unknown_for_long(cycle):
            key = self._replaced(cycle, key)
        self._key, shown = key, model_pem.node_key_fingerprint(key.public)
        ghost = key.public == cycle.state.worked_key
        more = ", or still takes its last connection for alive" if ghost else ""
        if not ghost and settings.node_private_key is None:
            cycle.report.warn(*self._damaged(cycle.state.vmid))
        cycle.awaited = f"the SuperLink does not know the key {shown}{more}"
        cycle.report.set_condition("key", Mark.OK, shown)
        return key

    def _damaged(self, vmid: str | None) -> Iterator[Finding]:
        """Yield that the key, which has not worked yet, took the place of a damaged one."""
        lost = self._keys.damaged(vmid)
        if lost.exists():
            path = self._keys.path(vmid)
            message = f"{path} was damaged and made anew; what was in it is kept as {lost}"
            yield warning("enrol.key_damaged", message)

    def _wants_key(self, cycle: Cycle, found: SuperLinkOffer, key: NodeKey | None) -> bool:
        """Tell whether a key is shown; the SuperLink's own refusal counts more than OneGate.

        Any VM of the service may have written what OneGate says. So a key that worked is shown
        whatever that is, until the SuperLink itself, which proves who it is, has refused it for
        long; and a container that works without a key stays so until it is refused.
        """
        told = found.node_auth
        worked = key is not None and cycle.state.worked_key == key.public
        refused = cycle.wait is not None and isinstance(cycle.wait.error, KeyMismatchError)
        if refused:
            self._superlink_search.forget()  # it may publish by now what it wants
            told = True
        elif told is False and worked and not self._unknown_for_long(cycle):
            told = True
        elif told is True and cycle.running and cycle.state.superlink_auth is False:
            told = False
        if told is not found.node_auth:
            found = dataclasses.replace(found, node_auth=None)
        if told is not None:
            cycle.remember(superlink_auth=told)
        return superlink_trust.wants_key(cycle.seen.settings, found, cycle.state)

    def _unknown_for_long(self, cycle: Cycle) -> bool:
        """Tell whether the SuperLink has refused this node's key for so long that it means it."""
        patience_s = REPLACE_KEY_AFTER_S * self._scale
        return (
            cycle.wait is not None
            and isinstance(cycle.wait.error, KeyUnknownError)
            and cycle.seen.monotonic - cycle.wait.since > patience_s
        )

    def _connected(self, cycle: Cycle, found: SuperLinkOffer) -> SuperLinkOffer:
        """Return `found`, at the endpoint that this node's container has while that works.

        What OneGate says then is older than the connection, or another VM wrote it. A SuperLink
        that moved ends its connections, and does not answer where it was.
        """
        known = cycle.state.superlink
        fixed = cycle.seen.settings.server_address is not None
        if not cycle.running or fixed or known is None or known == found.endpoint:
            return found
        if self._connections.held(known, now=cycle.seen.monotonic) or self._answers(cycle, known):
            return dataclasses.replace(found, endpoint=known, published=found.endpoint)
        return found

    def _answers(self, cycle: Cycle, known: Address) -> bool:
        """Tell whether a SuperLink that this node trusts answers where it was; or is asked.

        Over HTTP no connection is held between two calls, and one to a name is not known at once.
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
        """Return by whom the SuperLink's certificate must be issued; None: the system's store."""
        system = superlink_trust.trust_of(cycle.seen.settings) is Trust.SYSTEM
        return None if system else cycle.seen.keyring.held_ca()

    def _key_of(self, settings: Settings, vmid: str | None, *, dry: bool = False) -> NodeKey | None:
        """Return this VM's key; a dry look makes none."""
        if settings.node_private_key is not None:
            return self._keys.give(settings.node_private_key, dry=dry)
        return self._keys.held(vmid) if dry else self._keys.own(vmid)

    def _replaced(self, cycle: Cycle, key: NodeKey) -> NodeKey:
        """Return a new key in the place of one that worked once and was unregistered since."""
        own = cycle.seen.settings.node_private_key is None
        if not own or cycle.state.worked_key != key.public or cycle.seen.dry:
            return key
        log.warning("node_key.replaced", key=model_pem.node_key_fingerprint(key.public))
        cycle.remember(worked_key=None)
        made = self._keys.renew(cycle.state.vmid)
        cycle.report.publish(node_key=made.public)
        return made

    def _node_config(self, cycle: Cycle) -> tuple[tuple[str, str], ...]:
        """Return the partition, as far as it is automatic, and what FLOWER_NODE_CONFIG adds."""
        config = cycle.seen.settings.node_config or ()
        if not cycle.seen.settings.is_numbered:
            given, part = dict(config), self._partition(cycle)
            automatic = zip(PARTITION_KEYS, map(str, dataclasses.astuple(part)), strict=True)
            config = (*(pair for pair in automatic if pair[0] not in given), *config)
        number, count = (command_line.scalar(dict(config)[key]) for key in PARTITION_KEYS)
        if type(number) is int and type(count) is int and number >= 0 and count >= 0:
            cycle.report.publish(partition=(number, count))
            cycle.report.set_condition("partition", Mark.OK, f"{number} of {count}")
        cycle.report.set_condition("node_config", Mark.OK, command_line.node_config_words(config))
        return config

    def _partition(self, cycle: Cycle) -> Partition:
        part = self._superlink_search.partition(cycle.seen.client, cycle.state)
        if part is None:
            cycle.report.warn(
                warning("partition.default", "outside a service this node has partition 0 of 1")
            )
            return Partition(0, 1)
        cycle.remember(partition=part)
        return part

    def _gave_up(self, cycle: Cycle, running: Running) -> bool:
        """Tell whether its log has the end of a SuperNode, which its process may outlive."""
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
        linked = band.fleet is not Transport.GRPC or (
            endpoint is not None and self._connections.held(endpoint, now=cycle.seen.monotonic)
        )
        silent = not band.announces_node and not peer.refusal and not peer.failed
        mute = self._mute(cycle)
        if mute is not None and (linked or not isinstance(mute, PeerLostError)):
            self._lose(cycle)
            raise mute
        if linked and (peer.connected or (silent and self._holds(cycle, running))):
            if peer.node_id:
                cycle.report.publish(node_id=peer.node_id)
            if self._key is not None:
                cycle.remember(worked_key=self._key.public)
            cycle.report.set_condition(
                "peer", Mark.OK, f"connected to {endpoint} as node {peer.node_id or '?'}"
            )
            return
        self._lose(cycle)
        if peer.refusal is exit_codes.Refusal.UNREGISTERED:
            raise KeyUnknownError("enrol.waiting", cycle.awaited or peer.detail, retryable=True)
        if peer.refusal is exit_codes.Refusal.GHOST:
            message = f"the SuperLink at {endpoint} still takes the last connection for alive"
            raise GhostError("peer.ghost", message, retryable=True)
        if peer.refusal is exit_codes.Refusal.NO_KEY:
            raise KeyMismatchError(
                "enrol.mismatch", "the SuperLink wants node keys", retryable=True
            )
        message = f"not connected to {endpoint}: {peer.detail or 'no connection is established'}"
        if peer.node_id:
            raise PeerLostError("peer.lost", message, retryable=True)
        raise AgentError("peer.waiting", message, retryable=True)

    def _mute(self, cycle: Cycle) -> AgentError | None:
        """Return what is proven of a SuperLink that does not answer, or not every packet."""
        endpoint = cycle.state.superlink
        if self._liveness is None or endpoint is None or cycle.seen.dry:
            return None
        asked = peer(cycle.seen.settings, endpoint, cycle.seen.host.mtu)
        found = self._liveness.judge(asked, cycle.seen.monotonic)
        cycle.look_again_in(self._liveness.wait_s(cycle.seen.monotonic))
        return found

    def _lose(self, cycle: Cycle) -> None:
        """Note that the SuperLink is away; for long: it may be somewhere else by now."""
        if self._lost_at is None:
            self._lost_at = cycle.seen.monotonic
            if self._home is not None:
                self._home.forget()
        if cycle.seen.monotonic - self._lost_at > LOST_AFTER_S:
            self._superlink_search.forget()

    def _check_messages(self, cycle: Cycle, failed: datetime.datetime | None) -> None:
        """Tell of a message that got lost; a ClientApp `failed` last at that time.

        Raises AgentError ``run.message_lost`` where its Flower took no other message for long.
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
        # A run that was stopped looks the same for a minute, and then the node goes on.
        if cycle.seen.monotonic - self._deaf_since > DEAF_AFTER_S * self._scale:
            cycle.hung = True
            message = f"Flower {version} takes no message after one that it could not receive"
            raise AgentError(lost_messages.CODE, message, RESTARTS, retryable=True)

    def _holds(self, cycle: Cycle, running: Running) -> bool:
        """Tell whether the connection of a node that says nothing outlived a refusal of its key."""
        if self._linked is None or self._linked[0] != running.started_at:
            self._linked = (running.started_at, cycle.seen.monotonic)
        return (
            self._key is None
            or cycle.seen.monotonic - self._linked[1] > HOLDS_AFTER_S * self._scale
        )

    def _read(self, cycle: Cycle, running: Running) -> str:
        """Return the lines that matter of this container start."""
        started_at = running.started_at
        if self._seen is None or self._seen.started_at != started_at:
            self._seen = _LogPosition(started_at, started_at, cycle.seen.monotonic)
            self._messages = dataclasses.replace(self._messages, stuck=False)
        passed = datetime.timedelta(seconds=cycle.seen.monotonic - self._seen.read_at)
        since = min(self._seen.since, cycle.seen.now - passed - OVERLAP)
        # A clock that was set back dates new lines before the start.
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
    http = flower_versions.band(settings.version).fleet is Transport.HTTP
    return PeerEndpoint(endpoint, settings.tls, http, mtu)
