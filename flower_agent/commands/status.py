"""``flower-agent status``: reads the status file and whether an agent runs, and nothing else.

Standard library only: any user may ask, at once.
"""

import argparse
import datetime
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from flower_agent import files, process
from flower_agent.model import status
from flower_agent.model.errors import AgentError, StateFileError
from flower_agent.paths import Paths
from flower_agent.reporting import status_text

GRACE_S = 10.0
"""How long ``--wait`` waits for an agent that does not run (yet)."""

SYSTEMCTL = pathlib.Path("/usr/bin/systemctl")
SYSTEMD_S = 2.0
MAX_BYTES = 1 << 12
LOOK_S = 0.2
WATCH_S = 1.0
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def add_options(parser: argparse.ArgumentParser, duration: Any) -> None:
    """Add the options of ``status``."""
    parser.add_argument("--json", action="store_true", help="print the JSON of the status file")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--wait", action="store_true", help="wait until ready, failed or --timeout")
    kinds.add_argument("--watch", action="store_true", help="continue, and print each change")
    parser.add_argument(
        "--timeout",
        type=duration,
        default=600.0,
        help="time limit of --wait: 90s, 10m (default: 10m)",
    )


def run(paths: Paths, options: argparse.Namespace) -> int:
    """Print the status; return its exit code."""
    if options.watch:
        return _watch(paths, as_json=options.json)
    end = time.monotonic() + (options.timeout if options.wait else 0)
    dead_until = time.monotonic() + min(GRACE_S, options.timeout)
    while True:
        try:
            found, running = look(paths)
        except AgentError as error:  # damaged, or whether an agent runs cannot be seen
            if options.wait and time.monotonic() < end:
                time.sleep(LOOK_S)
                continue
            print(f"{error.finding}\n  fix: {error.finding.hint}", file=sys.stderr)
            return status.UNKNOWN
        now = datetime.datetime.now(datetime.UTC)
        starts = not running and being_started(paths)
        code = status.exit_code(found, running=running, now=now, being_started=starts)
        dead = not running and not starts and time.monotonic() >= dead_until
        settled = code in (0, 1) or dead
        if not options.wait or settled or time.monotonic() >= end:
            break
        time.sleep(WATCH_S if starts else LOOK_S)
    print(_shown(found, running=running, starts=starts, now=now, as_json=options.json))
    return status.TIMED_OUT if options.wait and not settled else code


def look(paths: Paths) -> tuple[dict[str, Any] | None, bool]:
    """Return the status that an agent wrote, and whether an agent runs.

    The lock tells that to whoever may open it. Others believe the process in the status file, with
    its start. What a dead agent wrote is no status of the one that runs. Raises AgentError
    ``state.corrupt``.
    """
    found, held = document(paths), files.held(paths.lock)
    pid, started = (found or {}).get("pid"), (found or {}).get("pid_started")
    if pid is None or started is None:
        return found, bool(held)
    try:
        lives = process.lives(process.Process(pid, started))
    except PermissionError as error:
        if held is None:
            message = "the command cannot see whether an agent runs: /proc hides its process"
            raise StateFileError("state.corrupt", message, "Run the command as root.") from error
        lives = held
    return (found if lives or not held else None), lives if held is None else held


def being_started(paths: Paths) -> bool:
    """Ask systemd whether it starts the unit, which only the agent of ``/`` has."""
    if paths.root != pathlib.Path("/") or not SYSTEMCTL.exists():
        return False
    return status.being_started(_properties(SYSTEMCTL))


def _properties(program: pathlib.Path) -> str:
    import subprocess  # costs a status that needs no systemd its quickness

    wanted = ",".join(status.PROPERTIES)
    command = [str(program), "show", f"--property={wanted}", "flower-agent.service"]
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SYSTEMD_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout[:MAX_BYTES].decode("utf-8", "replace")


def document(paths: Paths) -> dict[str, Any] | None:
    """Return the status file's document; None when there is none.

    Raises AgentError ``state.corrupt``.
    """
    data = files.read(paths.status, 1 << 22)
    if data is None:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    wrong = status.damage(found) if isinstance(found, dict) else "it is not a JSON object"
    if wrong:
        raise StateFileError(
            "state.corrupt",
            f"the status file {paths.status} is damaged: {wrong}",
            "The running agent writes it again within 30 s; else: systemctl restart flower-agent",
        )
    return dict(found)


def agent_name(paths: Paths) -> str:
    """Return the name of the agent that wrote the status file; empty if unknown."""
    try:
        return str((document(paths) or {}).get("name") or "")
    except AgentError:
        return ""


def colored(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether a stream gets color: a terminal does, unless NO_COLOR or TERM=dumb says no."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _watch(paths: Paths, *, as_json: bool) -> int:
    """Show the status each second on a terminal; otherwise, and as JSON, the changes."""
    last: object = None
    while True:
        try:
            found, running = look(paths)
        except AgentError as error:
            if last != str(error):
                print(error, flush=True)
            last = str(error)
            time.sleep(WATCH_S)
            continue
        now = datetime.datetime.now(datetime.UTC)
        starts = not running and being_started(paths)
        code = status.exit_code(found, running=running, now=now, being_started=starts)
        told = found or {}
        change = (code, *(told.get(key) for key in ("phase", "error", "errors", "warnings")))
        if sys.stdout.isatty() and not as_json:
            shown = _shown(found, running=running, starts=starts, now=now, as_json=False)
            print(f"{_CLEAR}{shown}\n\n  {status.stamp(now)}, each second; Ctrl-C ends", flush=True)
        elif change != last and as_json:
            print(json.dumps(_document(told, running=running, starts=starts)), flush=True)
        elif change != last:
            line = status_text.headline(found, running=running, now=now, being_started=starts)
            cause = (told.get("error") or {}).get("code")
            text = f"{status.stamp(now)} {line}{f': {cause}' if cause else ''}"
            print("".join(c if c.isprintable() else "?" for c in text), flush=True)
        last = change
        time.sleep(WATCH_S)


def _shown(
    found: dict[str, Any] | None,
    *,
    running: bool,
    starts: bool,
    now: datetime.datetime,
    as_json: bool,
) -> str:
    if as_json:
        return json.dumps(_document(found or {}, running=running, starts=starts), indent=1)
    color = colored(sys.stdout, os.environ)
    return status_text.render(found, running=running, now=now, color=color, being_started=starts)


def _document(found: dict[str, Any], *, running: bool, starts: bool) -> dict[str, Any]:
    return {**found, "running": running, **({"being_started": True} if starts else {})}
