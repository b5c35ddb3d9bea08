"""Starts the agent as a process: lock, signals, log; and ``plan``, its look without a touch."""

import os
import pathlib
import signal
import sys
import threading

from . import files, inputs, intake, log
from .agent import Agent, Options
from .errors import AgentError
from .paths import Paths

END_S = 1.5
"""SIGTERM ends the agent within two seconds, whatever the loop waits for."""

PREVIEW_S = 15.0


def run(paths: Paths, name: str) -> int:
    """Run until SIGTERM or SIGINT; SIGHUP reads the context anew. Containers are left running.

    Raises AgentError ``agent.running`` when another agent has this root.
    """
    os.umask(0o077)
    log.configure("INFO", tty=sys.stderr.isatty())
    with _only(paths.lock, f"with the root {paths.root}"), _only(_name_lock(name), _called(name)):
        agent = Agent(_options(paths, name))
        stop = threading.Event()
        ended = threading.Event()

        def loop() -> None:
            try:
                agent.run(stop)
            finally:
                ended.set()

        def end(*_: object) -> None:
            stop.set()
            agent.wake()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGHUP, lambda *_: agent.wake(again=True))
        # The loop has a thread of its own, so that a call that hangs cannot hold up the end.
        threading.Thread(target=loop, name="loop", daemon=True).start()
        while not stop.wait(3600) and not ended.is_set():
            pass
        clean = ended.wait(END_S)
    return 0 if clean or stop.is_set() else 1


def plan(paths: Paths, name: str, context: pathlib.Path | None) -> int:
    """Print what ``run`` would do now. Returns 1 when it could not start."""
    log.configure("CRITICAL", tty=sys.stderr.isatty())
    _, findings = intake.judge(inputs.read(paths, context_file=context))
    for found in findings:
        print(f"{found.severity}: {found}\n  fix: {found.hint}")
    unmet, steps = Agent(_options(paths, name, context), dry=True).preview(PREVIEW_S)
    for step in steps:
        print(step)
    if unmet is not None:
        print(
            f"then waits in phase {unmet.phase}" + (f": {unmet.finding}" if unmet.finding else "")
        )
        if unmet.finding:
            print(f"  fix: {unmet.finding.hint}")
        return 1 if unmet.fatal else 0
    if not steps:
        print("nothing to do: everything is as it should be")
    return 0


def _only(path: pathlib.Path, which: str) -> files.Lock:
    """Return the lock that only one agent has. Raises AgentError ``agent.running``."""
    files.directory(path.parent, 0o755)
    lock = files.lock(path)
    if lock is None:
        raise AgentError("agent.running", f"another agent runs {which}")
    return lock


def _name_lock(name: str) -> pathlib.Path:
    """Return the machine's lock for a name: two agents of one name would share containers."""
    return Paths(pathlib.Path("/")).runtime / f"name-{name or 'default'}.lock"


def _called(name: str) -> str:
    return f"with the name {name}" if name else "without a --name"


def _options(paths: Paths, name: str, context: pathlib.Path | None = None) -> Options:
    return Options(
        paths=paths,
        context_file=context,
        name=name,
        docker_url=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
        notify_socket=os.environ.get("NOTIFY_SOCKET", ""),
        tty=sys.stderr.isatty(),
        scale=float(os.environ.get("FLOWER_AGENT_TIME_SCALE", "1")),
    )
