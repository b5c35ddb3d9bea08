"""The SuperNode's duty: find the SuperLink, trust its CA, and be seen connected to it.

Flower says nothing of a TLS mistake but that it retries, so the agent shakes hands with the
endpoint itself before it starts the container. Connected is read from the SuperNode's own log
(`exits.peer`) and from the kernel's table of connections, never assumed.
"""

import dataclasses
import datetime

from . import certificates, exits, flower, node_trust, roles, superexec, trust
from .address import Address
from .arguments import Trust
from .containers import Part
from .discovery import Partition, SuperLink, mixed_versions
from .errors import AgentError, Severity, warning
from .finder import Finder
from .flower import Transport
from .health import Prober
from .life import Phase
from .parsers import SYSTEM
from .status import Mark
from .turn import Prepared, Running, Turn

TIMEOUT_S = 3.0
LOST_AFTER_S = 10.0
"""A SuperNode that is away for longer looks for its SuperLink anew."""

OVERLAP = datetime.timedelta(seconds=2)
"""A log is read again from so long before the last look."""


@dataclasses.dataclass(slots=True)
class _Seen:
    """What the log of one container start told so far; only the lines that matter are kept."""

    started_at: datetime.datetime
    since: datetime.datetime
    """Docker's time from which on lines may not have been read yet."""

    read_at: float
    """Monotonic seconds of the last look."""

    lines: tuple[str, ...] = ()


class SuperNode:
    """What one SuperNode VM does beside its containers."""

    def __init__(self, prober: Prober, search: Finder) -> None:
        self._prober = prober
        self._finder = search
        self._seen: _Seen | None = None
        self._lost_at: float | None = None
        self._resolved: tuple[Address | None, frozenset[str]] = (None, frozenset())

    def prepare(self, turn: Turn) -> Prepared:
        """Return the trusted CA, the SuperLink and this node's partition.

        Raises AgentError ``discover.…``, ``onegate.…`` or ``tls.…`` while any is missing.
        """
        settings = turn.settings
        lost = node_trust.no_source(settings) if turn.client is None else None
        if lost:
            raise AgentError(lost.code, lost.message, lost.hint)
        found = self._finder.find(
            settings, turn.client, turn.record, now=turn.monotonic, running=turn.running
        )
        try:
            wanted = self._trust(turn, found)
        except AgentError:
            self._finder.forget()  # what was told and is refused may be told otherwise by now
            raise
        mixed = mixed_versions(settings.version, found.version)
        if mixed and mixed.severity is Severity.ERROR:
            self._finder.forget()
            raise AgentError(mixed.code, mixed.message, mixed.hint, retryable=True)
        if mixed:
            turn.warnings.append(mixed)
        config = self._node_config(turn)
        turn.record = dataclasses.replace(
            turn.record, superlink=found.endpoint, superlink_vmid=found.vmid
        )
        turn.told["FLOWER_ENDPOINT"] = str(found.endpoint)
        turn.told["FLOWER_BUSY"] = "0"
        site = {"superlink": found, "trust": node_trust.trust_of(settings), "node_config": config}
        return Prepared(trust=wanted, site=site)

    def may_start(self, turn: Turn) -> None:
        """Raise AgentError ``endpoint.…`` while the SuperLink does not answer as it should."""
        settings = turn.settings
        found = self._finder.find(settings, turn.client, turn.record, now=turn.monotonic)
        http = flower.band(settings.version).fleet is Transport.HTTP
        ca_pem = None if node_trust.trust_of(settings) is Trust.SYSTEM else turn.keyring.held_ca()
        try:
            self._finder.look(found, ca_pem, tls=settings.tls, http=http, now=turn.monotonic)
        except AgentError as error:
            if error.finding.code.startswith("endpoint."):
                self._finder.forget()  # it may have moved
            raise

    def check(self, turn: Turn, running: Running) -> None:
        """Raise AgentError for the first thing that does not work."""
        settings = turn.settings
        try:
            self._prober.probe_serving(roles.health(settings, Part.SUPERNODE), TIMEOUT_S)
        except AgentError:
            turn.hung = self._gave_up(turn, running)
            raise
        turn.note("health", Mark.OK, "gRPC health service answers SERVING")
        turn.phase = Phase.PEER
        self._check_peer(turn, running)
        self._lost_at = None

    def _trust(self, turn: Turn, found: SuperLink) -> trust.Wanted:
        settings = turn.settings
        wrong = node_trust.mismatch(settings, found)
        if wrong:
            raise AgentError(wrong.code, wrong.message, wrong.hint, retryable=True)
        if not settings.tls:
            return trust.Wanted(source=trust.Source.OFF)
        if settings.tls_ca_cert == SYSTEM:
            return trust.Wanted(source=trust.Source.SYSTEM)
        held = turn.keyring.held_ca()
        pem = node_trust.trusted_ca(settings, found, turn.record, held)
        seen = certificates.check_ca(pem, settings.ca_fingerprint, turn.now)
        if not settings.tls_ca_cert:
            turn.record = dataclasses.replace(turn.record, ca_pin=certificates.fingerprint(pem))
        turn.trusts(seen.fingerprint)
        return trust.Wanted(source=trust.Source.TRUSTED, ca_pem=certificates.canonical(pem))

    def _node_config(self, turn: Turn) -> tuple[tuple[str, str], ...]:
        settings = turn.settings
        if settings.node_config is not None:
            return settings.node_config
        part = self._finder.partition(turn.client, turn.record)
        if part is None:
            part = Partition(0, 1)
            turn.warnings.append(
                warning("partition.default", "outside a service this node has partition 0 of 1")
            )
        else:
            turn.record = dataclasses.replace(turn.record, partition=part)
        turn.told["FLOWER_PARTITION"] = f"{part.partition_id}/{part.num_partitions}"
        turn.note("partition", Mark.OK, f"{part.partition_id} of {part.num_partitions}")
        return (
            ("partition-id", str(part.partition_id)),
            ("num-partitions", str(part.num_partitions)),
        )

    def _gave_up(self, turn: Turn, running: Running) -> bool:
        """Tell whether its log has the end of a SuperNode, which its process may outlive."""
        peer = exits.peer(self._read(turn, running).splitlines())
        return peer.failed or peer.refusal is exits.Refusal.FORGOTTEN

    def _check_peer(self, turn: Turn, running: Running) -> None:
        peer = exits.peer(self._read(turn, running).splitlines())
        endpoint = turn.record.superlink
        turn.hung = peer.failed
        if peer.clock_refused:
            raise AgentError(
                "peer.clock", f"the SuperLink at {endpoint} refuses this VM's clock", retryable=True
            )
        band = flower.band(turn.settings.version)
        linked = band.fleet is not Transport.GRPC or (
            endpoint is not None and self._attached(endpoint)
        )
        if (peer.connected or not band.announces_node) and linked:
            if peer.node_id:
                turn.told["FLOWER_NODE_ID"] = peer.node_id
            turn.note("peer", Mark.OK, f"connected to {endpoint} as node {peer.node_id or '?'}")
            return
        self._lost_at = turn.monotonic if self._lost_at is None else self._lost_at
        if turn.monotonic - self._lost_at > LOST_AFTER_S:
            self._finder.forget()
        code = "peer.lost" if peer.node_id else "peer.waiting"
        because = peer.detail or "no connection is established"
        raise AgentError(code, f"not connected to {endpoint}: {because}", retryable=True)

    def _attached(self, endpoint: Address) -> bool:
        """Tell whether a connection is held; a name that does not resolve is where it was."""
        before = self._resolved[1] if self._resolved[0] == endpoint else frozenset[str]()
        self._resolved = (endpoint, before | superexec.resolved(endpoint.host))
        return superexec.attached(endpoint, self._resolved[1])

    def _read(self, turn: Turn, running: Running) -> str:
        """Return the lines that matter of this container start."""
        started_at = running.started_at
        if self._seen is None or self._seen.started_at != started_at:
            self._seen = _Seen(started_at, started_at, turn.monotonic)
        passed = datetime.timedelta(seconds=turn.monotonic - self._seen.read_at)
        since = min(self._seen.since, turn.now - passed - OVERLAP)
        # A clock that was set back dates new lines before the start.
        if turn.now >= started_at:
            since = max(since, started_at)
        text = running.read_log(since)
        self._seen.since, self._seen.read_at = turn.now - OVERLAP, turn.monotonic
        self._seen.lines = exits.telling((*self._seen.lines, *text.splitlines()))
        return "\n".join(self._seen.lines)
