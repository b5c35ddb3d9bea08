"""The record of who did what: its entries, their lines, and the chain of hashes. Pure.

A line is one JSON object whose last key is ``hash``: the SHA-256 of the bytes of the line before
``,"hash":``. Among them is ``previous``, the hash of the line before, so that a line that is
changed, removed or put in between breaks the chain. docs/record.md describes the format.
"""

import dataclasses
import datetime
import enum
import hashlib
import json
import re
from collections.abc import Iterable, Iterator

from flower_agent.model import deduplication, foreign_text
from flower_agent.model.errors import counted

SCHEMA = 1
LINE_MAX = 1 << 15
"""Bytes of a line; an entry makes a much shorter one."""

MESSAGE_MAX = 300
FIELD_MAX = 128

AGENT, CONTEXT, UNKNOWN = "agent", "context", "unknown"
"""Who: the agent by itself, the VM's context, a caller that Flower's Control API does not name."""

WINDOW_S = 60.0
"""Equal refused calls within this time become one entry."""

MOST_KINDS = 256
"""Different refused calls that are counted at the same time."""

_HASH = re.compile(rb',"hash":"([0-9a-f]{64})"\}')
_HASH_BYTES = 75
"""Length of what `_HASH` matches."""


class Event(enum.StrEnum):
    """What happened."""

    AGENT_VERSION = "agent.version"
    FLOWER_VERSION = "flower.version"
    FLOWER_REFUSED = "flower.refused"
    IMAGE_PINNED = "image.pinned"
    SETTINGS_CHANGED = "settings.changed"
    SETTINGS_REFUSED = "settings.refused"
    CA_MADE = "trust.ca_made"
    CERTIFICATE_ISSUED = "trust.certificate_issued"
    CERTIFICATE_WRITTEN = "trust.certificate_written"
    CA_PINNED = "trust.ca_pinned"
    TRUST_REQUESTED = "trust.requested"
    RENEWAL_REQUESTED = "trust.renewal_requested"
    KEY_PINNED = "key.pinned"
    KEY_UNPINNED = "key.unpinned"
    KEY_REGISTERED = "key.registered"
    KEY_UNREGISTERED = "key.unregistered"
    KEY_WORKS = "key.works"
    RUN_SUBMITTED = "run.submitted"
    RUN_STARTED = "run.started"
    RUN_STOP_REQUESTED = "run.stop_requested"
    RUN_ENDED = "run.ended"
    RUN_DELETED = "run.deleted"
    AGENT_DOWN = "agent.down"
    ACCOUNT_CHANGED = "account.changed"
    GATEWAY_LOGIN = "gateway.login"
    GATEWAY_APPROVE = "gateway.approve"
    GATEWAY_START_RUN = "gateway.start_run"
    GATEWAY_STOP_RUN = "gateway.stop_run"
    GATEWAY_PULL_ARTIFACTS = "gateway.pull_artifacts"
    GATEWAY_DOWNLOAD = "gateway.download"
    GATEWAY_REGISTER_NODE = "gateway.register_node"
    GATEWAY_UNREGISTER_NODE = "gateway.unregister_node"
    GATEWAY_UNKNOWN_METHOD = "gateway.unknown_method"
    RECORD_ROTATED = "record.rotated"
    RECORD_RECOVERED = "record.recovered"
    RECORD_LOST = "record.lost"


class Result(enum.StrEnum):
    """What became of it."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened; text of others is bounded and cleaned here."""

    what: Event
    who: str = AGENT
    """``account:NAME``, ``local:USER``, ``context``, ``agent`` or ``unknown``."""

    result: Result = Result.DONE
    run: str = ""
    """A run's id."""

    app: str = ""
    """Hex SHA-256 of the app's bundle, Flower's own hash of it."""

    node: str = ""
    """A SuperNode's id."""

    name: str = ""
    """A node's name or its VM, an app's name, or the name of a variable."""

    key: str = ""
    """Fingerprint of a key or a certificate."""

    message: str = ""
    begins: int = 0
    """Number of the oldest entry that is kept, in ``record.rotated``."""

    count: int = 1
    """How often it happened."""

    once: bool = False
    """Not written where the record has the same event of the same run already."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", _line(self.message, MESSAGE_MAX))
        for name in ("who", "run", "app", "node", "name", "key"):
            object.__setattr__(self, name, _line(getattr(self, name), FIELD_MAX))


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain."""

    number: int
    hash: str


GENESIS = Head(0, "0" * 64)


@dataclasses.dataclass(frozen=True, slots=True)
class RecordedLine:
    """One line as it was read."""

    number: int
    previous: str
    hash: str
    fields: dict[str, object]

    @property
    def head(self) -> Head:
        """The chain up to this line."""
        return Head(self.number, self.hash)

    @property
    def time(self) -> datetime.datetime | None:
        """When it was written."""
        try:
            found = datetime.datetime.fromisoformat(str(self.fields.get("time")))
        except ValueError:
            return None
        return found if found.tzinfo is not None else None


def render(entry: Entry, at: datetime.datetime, before: Head) -> tuple[bytes, Head]:
    """Return the line of an entry that follows `before`, and the new head."""
    moment = at.astimezone(datetime.UTC).replace(tzinfo=None)
    document: dict[str, object] = {
        "schema": SCHEMA,
        "seq": before.number + 1,
        "time": f"{moment.isoformat('T', 'milliseconds')}Z",
        **marks(entry.what, entry.run),
        "who": entry.who,
        "result": str(entry.result),
    }
    if not entry.run:
        del document["run"]
    more = {
        "app": entry.app,
        "node": entry.node,
        "name": entry.name,
        "key": entry.key,
        "message": entry.message,
        "begins": entry.begins,
        "count": entry.count if entry.count > 1 else 0,
    }
    document |= {name: value for name, value in more.items() if value}
    document["previous"] = before.hash
    body = json.dumps(document, separators=(",", ":"))[:-1].encode()
    digest = hashlib.sha256(body).hexdigest()
    return body + f',"hash":"{digest}"}}\n'.encode(), Head(before.number + 1, digest)


def marks(what: Event, run: str) -> dict[str, object]:
    """Return the keys by which an event of a run is found again; they stand together in a line."""
    return {"what": str(what), "run": run}


def mark(what: Event, run: str) -> bytes:
    """Return the bytes that each line of this event and run has, and no other line."""
    return json.dumps(marks(what, run), separators=(",", ":"))[1:-1].encode()


def parse(line: bytes) -> RecordedLine:
    """Return a line without its line feed. Raises ValueError that says what is wrong."""
    found = _HASH.fullmatch(line[-_HASH_BYTES:])
    body = line[:-_HASH_BYTES]
    if found is None or len(line) > LINE_MAX:
        raise ValueError("is no entry")
    if hashlib.sha256(body).hexdigest().encode() != found[1]:
        raise ValueError("was changed: its hash is not that of its text")
    try:
        fields = json.loads(body + b"}")
    except (ValueError, RecursionError):
        raise ValueError("is no entry") from None
    number, previous = fields.get("seq"), fields.get("previous")
    if type(number) is not int or number < 1 or not isinstance(previous, str):
        raise ValueError("is no entry")
    return RecordedLine(number, previous, found[1].decode(), fields)


@dataclasses.dataclass(frozen=True, slots=True)
class Walked:
    """What a walk along the chain found."""

    entries: int
    head: Head
    fault: str = ""
    """The first thing that is wrong; empty where nothing is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """One line of a file."""

    place: str
    """``audit.jsonl line 12``."""

    data: bytes
    """With its line feed, if it has one."""


def walk(lines: Iterable[Held], head: Head | None = None, known: str = "") -> Walked:
    """Follow the chain through all lines, the oldest first.

    `head` is what the agent wrote beside the record after its last entry; `known` a hash of an
    entry from another place, such as the journal.
    """
    before, first, begins, entries, seen = GENESIS, 0, 1, 0, known in ("", GENESIS.hash)
    for held in lines:
        try:
            line = _follow(held, before if entries else None)
        except ValueError as error:
            return Walked(entries, before, str(error))
        before, first, entries = line.head, first or line.number, entries + 1
        kept_from = line.fields.get("begins")
        begins = max(begins, kept_from if isinstance(kept_from, int) else 1)
        seen = seen or line.hash == known
        if head is not None and line.number == head.number and line.hash != head.hash:
            fault = f"{held.place} was replaced: the agent wrote another entry {line.number}"
            return Walked(entries, before, fault)
    fault = ""
    if entries and first > begins:
        fault = f"{entries_words(begins, first - 1)} removed: the record begins with {first}"
    elif head is not None and head.number > before.number:
        fault = f"{entries_words(before.number + 1, head.number)} removed from the end"
    elif not seen:
        fault = f"no entry has the hash {known}"
    return Walked(entries, before, fault)


def _follow(held: Held, before: Head | None) -> RecordedLine:
    """Return a line that may follow `before`, which is None for the first."""
    if not held.data.endswith(b"\n"):
        raise ValueError(f"{held.place} was cut: it has no end")
    try:
        line = parse(held.data[:-1])
    except ValueError as error:
        raise ValueError(f"{held.place} {error}") from None
    if before is None:
        if line.number == 1 and line.previous != GENESIS.hash:
            raise ValueError(f"{held.place} was replaced: it is not the first entry")
        return line
    if line.number > before.number + 1:
        gone = entries_words(before.number + 1, line.number - 1)
        raise ValueError(f"{gone} removed before {held.place}")
    if line.number != before.number + 1 or line.previous != before.hash:
        raise ValueError(f"{held.place} does not follow the line before it")
    return line


def entries_words(first: int, last: int) -> str:
    """Return ``entry 7 was`` or ``entries 7 to 9 were``."""
    return f"entry {first} was" if first == last else f"entries {first} to {last} were"


class Refusals:
    """Adds up equal calls that were refused or failed.

    The first is written at once, the others as one entry a minute.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, ...], tuple[Entry, int, float]] = {}
        """The entry, how often it came since it was written, and when it is due."""

    def take(self, entry: Entry, now: float) -> Entry | None:
        """Return what to write now; None where it is added up. `now` is monotonic seconds."""
        if entry.result not in (Result.REFUSED, Result.FAILED):
            return entry
        fields = entry.what, entry.who, entry.run, entry.node, entry.name, entry.key
        key: tuple[str, ...] = (*fields, deduplication.gist(entry.message))
        if key not in self._open and len(self._open) >= MOST_KINDS:
            key = (entry.what,)
            entry = Entry(
                what=entry.what, who=UNKNOWN, result=entry.result, message="other refused calls"
            )
        known = self._open.get(key)
        if known is None:
            self._open[key] = entry, 0, now + WINDOW_S
            return entry
        self._open[key] = known[0], known[1] + entry.count, known[2]
        return None

    def due(self, now: float) -> Iterator[Entry]:
        """Yield one entry for each kind of call that came again, with its count."""
        for key, (entry, count, at) in tuple(self._open.items()):
            if now < at:
                continue
            if count:
                self._open[key] = entry, 0, now + WINDOW_S
                yield dataclasses.replace(entry, count=count)
            else:
                del self._open[key]


def described(line: RecordedLine) -> str:
    """Return an entry in one line for a person."""
    fields = line.fields
    who, what, result = (_word(fields.get(name)) for name in ("who", "what", "result"))
    names = (("run", "run"), ("node", "node"), ("name", ""), ("app", "app"), ("key", "key"))
    more = [f"{label} {text}".strip() for name, label in names if (text := _word(fields.get(name)))]
    if message := _word(fields.get("message")):
        more.append(message)
    if isinstance(times := fields.get("count"), int) and times > 1:
        more.append(counted(times, "time"))
    how = "" if result == Result.DONE else f" {result}"
    return f"{_word(fields.get('time'))}  {who:<14}  {what}{how}  {'; '.join(more)}".rstrip()


def _word(value: object) -> str:
    return _line(value, MESSAGE_MAX) if isinstance(value, str) else ""


def _line(text: str, limit: int) -> str:
    """Return foreign text on one line."""
    return " ".join(foreign_text.printable(text, limit=limit).split())
