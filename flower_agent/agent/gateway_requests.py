"""What the gateway may ask of the agent, word for word; anything else is refused. Pure.

A gateway that somebody took over sends what he likes, so every value has a form and a limit.
"""

import dataclasses
import json
import re
from collections.abc import Mapping

from flower_agent.model import foreign_text

LIMIT_BYTES = 1 << 16
"""Of one request."""

EVENTS = 100
FIELDS = 16
TEXT = 256
"""Most events of a request, fields of an event, and characters of a field."""

RATE = 600
RATE_S = 60.0
"""Most events in so many seconds; the journal is not the gateway's alone."""

_RUN = re.compile(r"[0-9]{1,20}", re.ASCII)
_EVENT = re.compile(r"gateway\.[a-z][a-z0-9_-]{0,39}", re.ASCII)
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_TAKEN = {"event", "level", "timestamp", "times", "exc_info", "exception", "stack", "stack_info"}
"""Words of the log itself."""

_MOST = 1 << 63

Value = str | int | float | bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class OutputsAsked:
    """The files that a run left."""

    run: str


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayEvent:
    """Something that the gateway did or refused, for the record."""

    name: str
    """``gateway.what``."""

    fields: Mapping[str, Value]


@dataclasses.dataclass(frozen=True, slots=True)
class RecordAsked:
    """Events for the record."""

    events: tuple[GatewayEvent, ...]


def parse(line: bytes) -> OutputsAsked | RecordAsked:
    """Return the request in one line of JSON. Raises ValueError that says what was wanted."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("want one line of JSON") from None
    match found:
        case {"ask": "outputs", "run": str(run), **rest} if not rest and _RUN.fullmatch(run):
            return OutputsAsked(run)
        case {"ask": "outputs"}:
            raise ValueError("want the id of a run")
        case {"ask": "record", "events": list(events), **rest} if not rest:
            if len(events) > EVENTS:
                raise ValueError(f"want at most {EVENTS} events")
            return RecordAsked(tuple(_event(each) for each in events))
        case _:
            raise ValueError("want one of the asks outputs, record")


class Allowance:
    """How many events are taken now; not more than `RATE` in `RATE_S`."""

    def __init__(self, now: float) -> None:
        self._left, self._at = float(RATE), now

    def take(self, count: int, now: float) -> bool:
        """Return whether `count` more events are taken at `now`, in monotonic seconds."""
        passed_s = max(now - self._at, 0.0)
        self._left, self._at = min(self._left + passed_s * RATE / RATE_S, float(RATE)), now
        if count > self._left:
            return False
        self._left -= count
        return True


def _event(found: object) -> GatewayEvent:
    if not isinstance(found, dict) or len(found) > FIELDS + 1:
        raise ValueError(f"want an event with at most {FIELDS} fields")
    name = found.get("event")
    if not isinstance(name, str) or not _EVENT.fullmatch(name):
        raise ValueError("want an event with a name such as gateway.login")
    fields = {key: _value(key, value) for key, value in found.items() if key != "event"}
    return GatewayEvent(name, fields)


def _value(key: str, value: object) -> Value:
    if not _FIELD.fullmatch(key) or key in _TAKEN:
        raise ValueError("want names of fields in lower case that the log does not use itself")
    if isinstance(value, str):
        return foreign_text.printable(value, limit=TEXT).replace("\n", " ")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and -_MOST < value < _MOST:
        return value
    raise ValueError("want fields that are a text, a number, true, false or null")
