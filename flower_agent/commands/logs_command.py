"""``flower-agent logs``: what the containers and the agent wrote, by time.

The agent's own events come from the journal of its unit, which only the agent of ``/`` has, or from
a file that it was started to write.
"""

import argparse
import dataclasses
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from flower_agent import foreign_text
from flower_agent.errors import AgentError
from flower_agent.machine import host
from flower_agent.paths import Paths
from flower_agent.steps.engine import Engine, socket_url
from flower_agent.wanted import roles
from flower_agent.wanted.containers import Existing, Part

from . import story
from .story import AGENT, Line

JOURNAL = ("/usr/bin/journalctl", "-u", "flower-agent", "-o", "json", "--no-pager", "-q")
TIMEOUT_S = 20
MAX_BYTES = 1 << 22
EVENTS = 100_000
"""Lines of the agent's that are looked through for those that are wanted."""

WINDOW_S = 0.5
"""Lines that come within this are put into their order while they are followed."""

NOTHING = "no containers and no events of this agent; of another: --name NAME"

Ends = queue.SimpleQueue[Line | Exception | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """How many lines of each writer are told, and which."""

    lines: int
    wanted: story.Wanted

    def tail(self, *, polled: bool) -> int | None:
        """Return how many lines to read; None: all, for only some of them are told."""
        wanted = self.wanted
        picks = wanted.since is not None or wanted.text or (polled and not wanted.polls)
        return None if picks else self.lines

    def of(self, lines: Iterable[Line]) -> list[Line]:
        """Return the last lines that are wanted."""
        found = list(story.chosen(lines, self.wanted))
        return found[max(len(found) - self.lines, 0) :]


def run(paths: Paths, options: argparse.Namespace) -> int:
    """Print the last lines of everything, or of one; return 1 where there is nothing."""
    engine, container = _engine(options.name), options.container
    wanted = story.Wanted(options.since, options.grep, polls=options.polls, hosts=_own_hosts())
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
    own = ask.of(story.of_agent(_read(events, ask))) if events else []
    for line in story.merged([line for each in told for line in each] + own):
        say(line)
    if not chosen and not own and not options.grep and options.since is None:
        print(NOTHING, file=sys.stderr)
        return 1
    return 0


def _engine(name: str) -> Engine:
    """Return the Engine with this agent's containers."""
    return Engine(name or "default", url=socket_url())


def _printer(*, as_json: bool, alone: bool) -> Callable[[Line], None]:
    """Return what prints a line: of one container as it is, else with time and writer."""
    color = sys.stdout.isatty()

    def say(line: Line) -> None:
        plain = foreign_text.printable(line.text, color=color)
        text = story.as_json(line) if as_json else story.shown(line, color=color)
        print(plain if alone and not as_json else text, flush=True)

    return say


def _chosen(
    found: tuple[Existing, ...], prefix: str, container: str | None
) -> tuple[Existing, ...]:
    names = {roles.name(prefix, part): part for part in Part}
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
    return frozenset({"127.0.0.1", "::1", *(text for _, text in host.ipv4_addresses())})


def _last(engine: Engine, container: Existing, ask: Ask) -> list[Line]:
    polled = container.name.endswith(Part.SUPERLINK)
    since, tail = ask.wanted.since, ask.tail(polled=polled)
    text = engine.logs(container.name, since=since, tail=tail, stamped=True)
    return ask.of(story.of_container(container.name, text))


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
            raise AgentError("state.corrupt", message, "Name the file of its events.") from error
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
            for line in story.chosen(source, ask.wanted):
                came.put(line)
        except (AgentError, BrokenPipeError) as error:
            came.put(error)
        else:
            came.put(None)

    for source in sources:
        threading.Thread(target=pour, args=(source,), daemon=True).start()
    _tell(came, len(sources), say)


def _tell(came: Ends, running: int, say: Callable[[Line], None]) -> None:
    """Print what comes, by time within a window."""
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
        for line in story.merged(line for at, line in waiting if at <= ripe):
            say(line)
        waiting = [(at, line) for at, line in waiting if at > ripe]


def _of(engine: Engine, name: str, lines: int) -> Iterator[Line]:
    chunks = engine.follow(name, tail=lines, stamped=True)
    for line in foreign_text.streamed(chunks, color=True):
        yield from story.of_container(name, line)


def _of_events(events: tuple[str, ...] | pathlib.Path, lines: int) -> Iterator[Line]:
    command = events
    if isinstance(command, pathlib.Path):
        command = ("/usr/bin/tail", "-F", str(command))
    follow = (*command, "-n", str(lines), *(() if isinstance(events, pathlib.Path) else ("-f",)))
    with subprocess.Popen(
        follow, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        for row in program.stdout or ():
            yield from story.of_agent(row.decode("utf-8", "replace").removesuffix("\n"))
