"""What Flower's Control API says about nodes and runs: values, and their bytes. Pure.

Field numbers as read from Flower's own programs, 1.23 to 1.42, where they are the same (1.42 only
adds), save that a node of 1.23 lacks the name of its owner, field 3, so that all behind it have a
number less. Ids exceed 2^63, so they are text everywhere outside the wire.
"""

import dataclasses
import datetime
import enum
import hashlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

from flower_agent.flower import wire

E = TypeVar("E", bound=enum.StrEnum)

LOG_LAG = datetime.timedelta(seconds=30)
"""A run's log may still be read for this long after its end."""

_BOOL, _SINT = 13, 8
"""Field numbers in Flower's Scalar."""

Scalar = bool | int | float | str
"""A value of an app's config."""


class NodeStatus(enum.StrEnum):
    """The SuperLink's state of a node."""

    REGISTERED = "registered"
    """Its key is known, it never connected."""

    ONLINE = "online"
    OFFLINE = "offline"
    UNREGISTERED = "unregistered"
    """Final: its key can never return."""


class RunStatus(enum.StrEnum):
    """The SuperLink's state of a run."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A SuperNode as the SuperLink has it (``NodeInfo``); dates are Flower's ISO text."""

    node_id: str
    status: NodeStatus | str
    registered_at: str = ""
    last_activated_at: str = ""
    last_deactivated_at: str = ""
    unregistered_at: str = ""
    online_until: datetime.datetime | None = None
    """When it turns offline without another heartbeat; None for one that was never online."""

    public_key: bytes = b""
    """PEM SubjectPublicKeyInfo. A SuperNode that was given no key makes one up at each start."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run as the SuperLink has it (``Run``); dates are Flower's ISO text."""

    run_id: str
    status: RunStatus | str
    sub_status: str = ""
    """``completed``, ``failed`` or ``stopped`` once finished."""

    details: str = ""
    fab_id: str = ""
    fab_version: str = ""
    fab_hash: str = ""
    federation: str = ""
    config: tuple[tuple[str, Scalar], ...] = ()
    """What its submission set of the app's config."""

    pending_at: str = ""
    starting_at: str = ""
    running_at: str = ""
    finished_at: str = ""

    @property
    def active(self) -> bool:
        """Return whether it still needs its SuperLink and nodes."""
        return self.status is not RunStatus.FINISHED

    def needs_superlink(self, now: datetime.datetime) -> bool:
        """Return whether a restart would harm it: it is active, or its last lines are being read.

        ``flwr run --stream`` gets the log some seconds late, and hangs where it is cut off.
        """
        try:
            age = now - datetime.datetime.fromisoformat(self.finished_at)
        except (TypeError, ValueError):  # no date, or none with a zone
            return self.active
        return self.active or datetime.timedelta() <= age < LOG_LAG


@dataclasses.dataclass(frozen=True, slots=True)
class Log:
    """A piece of what a ServerApp wrote."""

    text: str
    latest: float
    """Unix seconds of its last part; asked for `after` that, nothing comes twice."""


def encode_list_runs(*, run_id: str | None = None, limit: int | None = None) -> bytes:
    """Return a ListRunsRequest: one run, or the newest `limit` (ignored before 1.27)."""
    wanted = ((1, run_id), (2, limit))
    return wire.encode(*((number, int(value)) for number, value in wanted if value is not None))


def encode_register_node(public_key: bytes) -> bytes:
    """Return a RegisterNodeRequest: PEM SubjectPublicKeyInfo."""
    return wire.encode((1, public_key))


def encode_unregister_node(node_id: str) -> bytes:
    """Return an UnregisterNodeRequest."""
    return wire.encode((1, int(node_id)))


def encode_start_run(
    bundle: bytes, overrides: Iterable[tuple[str, Scalar]], federation: str
) -> bytes:
    """Return a StartRunRequest: an app bundle (FAB), and what the run sets of its config.

    `federation` is the one that the version wants named; empty leaves it to the SuperLink.
    """
    fab = wire.encode((1, hashlib.sha256(bundle).hexdigest()), (2, bundle))
    entries = (wire.encode((1, key), (2, _scalar(value))) for key, value in overrides)
    named = ((5, federation),) if federation else ()
    return wire.encode((1, fab), *((2, entry) for entry in entries), *named)


def encode_stream_logs(run_id: str, after: float) -> bytes:
    """Return a StreamLogsRequest: what the ServerApp wrote after a moment (Unix seconds)."""
    return wire.encode((1, int(run_id)), (2, after))


def encode_stop_run(run_id: str) -> bytes:
    """Return a StopRunRequest."""
    return wire.encode((1, int(run_id)))


def decode_nodes(data: bytes) -> tuple[NodeInfo, ...]:
    """Return the nodes of a ListNodesResponse. Raises ValueError."""
    return tuple(_node(node) for node in wire.decode(data).messages(1))


def decode_log(data: bytes) -> Log:
    """Return one StreamLogsResponse. Raises ValueError."""
    message = wire.decode(data)
    return Log(message.text(1), message.double(2))


def decode_runs(data: bytes) -> tuple[RunInfo, ...]:
    """Return the runs of a ListRunsResponse, oldest first. Raises ValueError."""
    entries = wire.decode(data).messages(1)  # a map of run id to run
    runs = (_run(entry.message(2)) for entry in entries)
    return tuple(sorted(runs, key=lambda run: (run.pending_at, run.run_id)))


def _node(node: wire.Message) -> NodeInfo:
    named = node.text(4) in set(NodeStatus) or node.text(3) not in set(NodeStatus)
    first = 4 if named else 3
    return NodeInfo(
        node_id=str(node.integer(1)),
        status=_known(NodeStatus, node.text(first)),
        registered_at=node.text(first + 1),
        last_activated_at=node.text(first + 2),
        last_deactivated_at=node.text(first + 3),
        unregistered_at=node.text(first + 4),
        online_until=_date(node.double(first + 5)),
        public_key=node.data(first + 7),
    )


def _run(run: wire.Message) -> RunInfo:
    status = run.message(10)
    return RunInfo(
        run_id=str(run.integer(1)),
        fab_id=run.text(2),
        fab_version=run.text(3),
        fab_hash=run.text(5),
        pending_at=run.text(6),
        starting_at=run.text(7),
        running_at=run.text(8),
        finished_at=run.text(9),
        status=_known(RunStatus, status.text(1)),
        sub_status=status.text(2),
        details=status.text(3),
        federation=run.text(12),
        config=tuple(sorted(_config(run.messages(4)))),
    )


def _scalar(value: Scalar) -> bytes:
    """Return a Scalar: a oneof in which each type has its number; integers are zigzag."""
    if isinstance(value, bool):
        return wire.encode((_BOOL, int(value)))
    if isinstance(value, int):
        return wire.encode((_SINT, value << 1 ^ value >> 63))
    return wire.encode((1 if isinstance(value, float) else 14, value))


def _config(entries: Iterable[wire.Message]) -> Iterator[tuple[str, Scalar]]:
    """Yield keys and values of a map of scalars; what is none of the four types is left out."""
    for entry in entries:
        for number, value in entry.message(2).fields[-1:]:
            if number == _BOOL:
                yield entry.text(1), bool(value)
            elif number == _SINT and isinstance(value, int):
                yield entry.text(1), value >> 1 ^ -(value & 1)
            elif isinstance(value, float):
                yield entry.text(1), value
            elif isinstance(value, bytes):
                yield entry.text(1), value.decode("utf-8", "replace")


def _known(kind: type[E], text: str) -> E | str:
    try:
        return kind(text)
    except ValueError:
        return text


def _date(seconds: float) -> datetime.datetime | None:
    if not seconds:
        return None
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None
