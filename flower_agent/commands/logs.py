"""``flower-agent logs``: the lines of the containers and the agent, by time.

The agent's own events come from the journal of its unit, which only the agent of ``/`` has, or from
a file that it was started to write.

Docker puts a time in front of each line (``timestamps``); the agent's own lines are JSON (`log`),
in journalctl's JSON around them or bare, as in a file.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flower_agent.docker.client import Engine, socket_url
from flower_agent.docker.containers import Component, Existing
from flower_agent.flower import container_spec
from flower_agent.host import machine
from flower_agent.model import foreign_text
from flower_agent.model.errors import AgentError, StateFileError
from flower_agent.paths import Paths

AGENT = "agent"
MOST = 1_000_000
"""Most lines of one text."""

_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?(.*)")
_OWN = ("event", "level", "timestamp", "exception")
_QUIET = ("debug", "info")
_CALL = re.compile(r"INFO\b[^\n]{0,60}ControlServicer\.(?:List|ListRuns|ListNodes|StreamLogs)$")
"""What Flower writes of a call of its Control API, 1.23 to 1.42."""

_ACCESS = re.compile(
    r"\S{1,40} INFO \[uvicorn\.access\] (\[?[0-9a-f.:]{1,45}?\]?):\d{1,5}"
    r' - "POST /v1/(?:control/(?:list-runs|list-nodes|stream-logs) HTTP/1\.[01]" 200'
    r'|(?:fleet|runtime)/agent-probe HTTP/1\.[01]" 404)$'
)
"""What its web server writes beside that, from 1.37 on, with the caller's address; and of the look
through HAProxy, from 1.40 on (`flower_versions.PROBE_PATH`)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line, and who wrote it when."""

    at: datetime.datetime | None
    """None where it does not say."""

    who: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class LineFilter:
    """Which lines are shown."""

    since: datetime.datetime | None = None
    text: str = ""
    """Stands in the line, in whatever case."""

    polls: bool = True
    """Also what Flower writes of the agent's own calls."""

    hosts: frozenset[str] = frozenset()
    """Addresses of this VM: calls from elsewhere are never the agent's."""


def matching(lines: Iterable[Line], wanted: LineFilter) -> Iterator[Line]:
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


def json_line(line: Line) -> str:
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


JOURNAL = ("/usr/bin/journalctl", "-u", "flower-agent", "-o", "json", "--no-pager", "-q")
TIMEOUT_S = 20
MAX_BYTES = 1 << 22
EVENTS = 100_000
"""Lines of the agent's that are looked through for those that are wanted."""

WINDOW_S = 0.5
"""Lines that come within this are put into their order while they are followed."""

NOTHING = "no containers and no events of this agent; for another agent: --name NAME"

Ends = queue.SimpleQueue[Line | Exception | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """How many lines of each source are shown, and which."""

    lines: int
    wanted: LineFilter

    def tail(self, *, polled: bool) -> int | None:
        """Return how many lines to read; None: all, because a filter selects some of them."""
        wanted = self.wanted
        picks = wanted.since is not None or wanted.text or (polled and not wanted.polls)
        return None if picks else self.lines

    def of(self, lines: Iterable[Line]) -> list[Line]:
        """Return the last lines that are wanted."""
        found = list(matching(lines, self.wanted))
        return found[max(len(found) - self.lines, 0) :]


def run(paths: Paths, options: argparse.Namespace) -> int:
    """Print the last lines of everything, or of one; return 1 where there is nothing."""
    engine, container = _engine(options.name), options.container
    wanted = LineFilter(options.since, options.grep, polls=options.polls, hosts=_own_hosts())
    ask = Ask(options.lines, wanted)
    say = _printer(as_json=options.json, alone=container is not None)
    events = _events(paths, options.events) if container in (None, AGENT) else None
    try:
        found = engine.containers() if container != AGENT else ()
    except AgentError as error:
        if events is None:
            raise
        print(f"{error.finding}\n  fix: {error.finding.hint}", file=sys.stderr)
        found = ()
    chosen = _chosen(found, options.name, container)
    if not chosen and events is None:
        have = ", ".join(c.name for c in found if c.mine)
        there = f"no container {container}; there is {have}" if have else "there are no containers"
        print(f"{there} of this agent", file=sys.stderr)
        return 1
    if options.follow:
        _follow(engine, chosen, events, ask, say)
        return 0
    told = [_last(engine, c, ask) for c in chosen]
    own = ask.of(of_agent(_read(events, ask))) if events else []
    for line in merged([line for each in told for line in each] + own):
        say(line)
    if not chosen and not own and not options.grep and options.since is None:
        print(NOTHING, file=sys.stderr)
        return 1
    return 0


def _engine(name: str) -> Engine:
    """Return the Engine with this agent's containers."""
    return Engine(name or "default", url=socket_url())


def _printer(*, as_json: bool, alone: bool) -> Callable[[Line], None]:
    """Return a function that prints a line: with time and source, unless of one container."""
    color = sys.stdout.isatty()

    def say(line: Line) -> None:
        plain = foreign_text.printable(line.text, color=color)
        text = json_line(line) if as_json else shown(line, color=color)
        print(plain if alone and not as_json else text, flush=True)

    return say


def _chosen(
    found: tuple[Existing, ...], prefix: str, container: str | None
) -> tuple[Existing, ...]:
    names = {container_spec.name(prefix, part): part for part in Component}
    mine = tuple(c for c in found if c.mine)
    if container is None:
        return mine
    return tuple(c for c in mine if container in (c.name, names.get(c.name)))


def _events(paths: Paths, file: pathlib.Path | None) -> tuple[str, ...] | pathlib.Path | None:
    """Return where the agent's own events are: a file, or the command that prints them."""
    if file is not None:
        return file
    if paths.root == pathlib.Path("/") and pathlib.Path(JOURNAL[0]).exists():
        return JOURNAL
    return paths.agent_log if paths.agent_log.exists() else None


def _own_hosts() -> frozenset[str]:
    """Return the addresses from which this VM's agent calls its SuperLink."""
    return frozenset({"127.0.0.1", "::1", *(text for _, text in machine.ipv4_addresses())})


def _last(engine: Engine, container: Existing, ask: Ask) -> list[Line]:
    polled = container.name.endswith(Component.SUPERLINK)
    since, tail = ask.wanted.since, ask.tail(polled=polled)
    text = engine.logs(container.name, since=since, tail=tail, stamped=True)
    return ask.of(of_container(container.name, text))


def _read(events: tuple[str, ...] | pathlib.Path, ask: Ask) -> str:
    """Return the last lines of the agent, at most `EVENTS`."""
    asked, since = ask.tail(polled=False), ask.wanted.since
    lines = EVENTS if asked is None else asked
    if isinstance(events, pathlib.Path):
        try:
            with events.open("rb") as file:
                file.seek(max(events.stat().st_size - MAX_BYTES, 0))
                rows = (
                    file.read(MAX_BYTES).decode("utf-8", "replace").removesuffix("\n").split("\n")
                )
        except OSError as error:
            message = f"{events} cannot be read: {error.strerror}"
            raise StateFileError(
                "state.corrupt", message, "Name the file with the agent's events."
            ) from error
        return "\n".join(rows[max(len(rows) - lines, 0) :])
    try:
        done = subprocess.run(
            [*events, "-n", str(lines), *([f"--since=@{int(since.timestamp())}"] if since else [])],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return foreign_text.decoded(done.stdout).removesuffix("\n")


def _follow(
    engine: Engine,
    chosen: tuple[Existing, ...],
    events: tuple[str, ...] | pathlib.Path | None,
    ask: Ask,
    say: Callable[[Line], None],
) -> None:
    """Follow each in a thread; end with the first error, or when all have ended."""
    came: Ends = queue.SimpleQueue()
    sources: list[Iterator[Line]] = [_of(engine, c.name, ask.lines) for c in chosen]
    if events is not None:
        sources.append(_of_events(events, ask.lines))

    def pour(source: Iterator[Line]) -> None:
        try:
            for line in matching(source, ask.wanted):
                came.put(line)
        except (AgentError, BrokenPipeError) as error:
            came.put(error)
        else:
            came.put(None)

    for source in sources:
        threading.Thread(target=pour, args=(source,), daemon=True).start()
    _tell(came, len(sources), say)


def _tell(came: Ends, running: int, say: Callable[[Line], None]) -> None:
    """Print new lines, sorted by time within a window."""
    waiting: list[tuple[float, Line]] = []
    while running or waiting:
        try:
            found = came.get(timeout=WINDOW_S / 5)
        except queue.Empty:
            found = ()  # type: ignore[assignment]  # nothing came
        if isinstance(found, Exception):
            raise found
        if found is None:
            running -= 1
        elif isinstance(found, Line):
            waiting.append((time.monotonic(), found))
        ripe = time.monotonic() - WINDOW_S if running else float("inf")
        for line in merged(line for at, line in waiting if at <= ripe):
            say(line)
        waiting = [(at, line) for at, line in waiting if at > ripe]


def _of(engine: Engine, name: str, lines: int) -> Iterator[Line]:
    chunks = engine.follow(name, tail=lines, stamped=True)
    for line in foreign_text.streamed(chunks, color=True):
        yield from of_container(name, line)


def _of_events(events: tuple[str, ...] | pathlib.Path, lines: int) -> Iterator[Line]:
    command = events
    if isinstance(command, pathlib.Path):
        command = ("/usr/bin/tail", "-F", str(command))
    follow = (*command, "-n", str(lines), *(() if isinstance(events, pathlib.Path) else ("-f",)))
    with subprocess.Popen(
        follow, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        for row in program.stdout or ():
            yield from of_agent(row.decode("utf-8", "replace").removesuffix("\n"))
