"""Lines of several logs as one story, by time. Pure.

Docker puts a time in front of each line (``timestamps``); the agent's own lines are JSON (`log`),
in journalctl's JSON around them or bare, as in a file.
"""

import dataclasses
import datetime
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from flower_agent import foreign_text

AGENT = "agent"
MOST = 1_000_000
"""Lines of one text: whoever asks for many shall have them."""

_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?(.*)")
_OWN = ("event", "level", "timestamp", "exception")
_QUIET = ("debug", "info")
_CALL = re.compile(r"INFO\b[^\n]{0,60}ControlServicer\.(?:List|ListRuns|ListNodes|StreamLogs)$")
"""What Flower writes of a call of its Control API, 1.23 to 1.42."""

_ACCESS = re.compile(
    r"\S{1,40} INFO \[uvicorn\.access\] (\[?[0-9a-f.:]{1,45}?\]?):\d{1,5}"
    r' - "POST /v1/control/(?:list-runs|list-nodes|stream-logs) HTTP/1\.[01]" 200$'
)
"""What its web server writes beside that, from 1.37 on, with the caller's address."""


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line, and who wrote it when."""

    at: datetime.datetime | None
    """None where it does not say."""

    who: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are told."""

    since: datetime.datetime | None = None
    text: str = ""
    """Stands in the line, in whatever case."""

    polls: bool = True
    """Also what Flower writes of the agent's own calls."""

    hosts: frozenset[str] = frozenset()
    """Addresses of this VM: calls from elsewhere are never the agent's."""


def chosen(lines: Iterable[Line], wanted: Wanted) -> Iterator[Line]:
    """Yield the lines that are wanted; one without a time has that of the one before it."""
    text, last = wanted.text.casefold(), None
    for line in lines:
        last = line.at or last
        if wanted.since is not None and (last is None or last < wanted.since):
            continue
        if not wanted.polls and line.who != AGENT and _is_poll(line.text, wanted.hosts):
            continue
        if text in foreign_text.printable(line.text).casefold():
            yield line


def _is_poll(text: str, hosts: frozenset[str]) -> bool:
    """Return whether Flower wrote a line of a call that the agent makes all the time."""
    if "ControlServicer." not in text and "uvicorn.access" not in text:
        return False
    plain = foreign_text.printable(text).strip()
    if _CALL.match(plain):
        return True
    access = _ACCESS.match(plain)
    return access is not None and access[1].strip("[]") in hosts


def of_container(who: str, text: str) -> Iterator[Line]:
    """Yield the lines that Docker stamped; one without a stamp goes on the one before."""
    for line in foreign_text.lines(text, most=MOST, color=True):
        match = _STAMPED.match(line)
        if match is None:
            yield Line(None, who, line)
            continue
        micros = ((match[2] or "") + "000000")[:6]
        at = datetime.datetime.fromisoformat(
            f"{match[1]}.{micros}{match[3].replace('Z', '+00:00')}"
        )
        yield Line(at, who, match[4])


def of_agent(text: str) -> Iterator[Line]:
    """Yield the agent's events, out of journalctl's JSON or as the agent wrote them."""
    for line in text.split("\n") if text else ():
        found = _object(line)
        if found is not None and "MESSAGE" in found:
            message, at = found["MESSAGE"], _micros(found.get("__REALTIME_TIMESTAMP"))
            inner = _object(message) if isinstance(message, str) else None
            yield from _event(inner, at, str(message))
        else:
            yield from _event(found, None, line)


def merged(lines: Iterable[Line]) -> list[Line]:
    """Return the lines by time; one that has none stays behind the one before it."""
    placed, last = [], datetime.datetime.min.replace(tzinfo=datetime.UTC)
    for number, line in enumerate(lines):
        last = line.at or last
        placed.append((last, number, line))
    return [line for _, _, line in sorted(placed, key=lambda row: row[:2])]


def shown(line: Line, *, color: bool = False) -> str:
    """Return a line for a person."""
    at = f"{line.at:%Y-%m-%dT%H:%M:%S}.{line.at.microsecond // 1000:03}Z" if line.at else " " * 24
    return f"{at} {line.who} | {foreign_text.printable(line.text, color=color)}"


def as_json(line: Line) -> str:
    """Return a line as one JSON object: ``at``, ``from``, ``text``."""
    at = line.at.isoformat(timespec="microseconds") if line.at else None
    return json.dumps({"at": at, "from": line.who, "text": foreign_text.printable(line.text)})


def _event(found: dict[str, Any] | None, at: datetime.datetime | None, line: str) -> Iterator[Line]:
    if found is None or "event" not in found:
        yield Line(at, AGENT, line)
        return
    level = str(found.get("level", "info"))
    fields = [f"{name}={_word(value)}" for name, value in found.items() if name not in _OWN]
    text = " ".join([str(found["event"]), *fields])
    at = _moment(found.get("timestamp")) or at
    yield Line(at, AGENT, text if level in _QUIET else f"{level.upper()} {text}")
    yield from (Line(None, AGENT, f"  {row}") for row in str(found.get("exception", "")).split("\n")
                if row)  # fmt: skip


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text) if re.search(r"[\s\"]", text) or not text else text


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _moment(text: Any) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found.astimezone(datetime.UTC) if found.tzinfo else None


def _micros(text: Any) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromtimestamp(int(text) / 1_000_000, datetime.UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
