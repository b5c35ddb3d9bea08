"""Starts the agent as a process: lock, signals, log; and ``plan``, a cycle without changes."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator

from flower_agent import files, log
from flower_agent.agent.assembly import Options
from flower_agent.agent.loop import Agent
from flower_agent.config import sources
from flower_agent.docker.client import socket_url
from flower_agent.images import builder
from flower_agent.model.errors import AgentError, Finding, Severity
from flower_agent.model.lifecycle import Unmet
from flower_agent.paths import Paths


@contextlib.contextmanager
def take_ownership(paths: Paths, name: str) -> Iterator[None]:
    """Hold the locks of a root and a name. Raises AgentError ``agent.running``."""
    called = f"with the name {name}" if name else "without a --name"
    with (
        _only(paths.lock, f"with the root {paths.root}"),
        _only(_name_lock(name), called),
    ):
        yield


def _only(path: pathlib.Path, which: str) -> files.FileLock:
    """Return the lock that only one process has. Raises AgentError ``agent.running``."""
    files.directory(path.parent, 0o755)
    lock = files.lock(path)
    if lock is None:
        raise AgentError("agent.running", f"another agent runs {which}")
    return lock


def _name_lock(name: str) -> pathlib.Path:
    """Return the machine's lock for a name, the same whatever the root."""
    return Paths(pathlib.Path("/")).runtime / f"name-{name or 'default'}.lock"


END_S = 1.5
"""SIGTERM ends the agent within two seconds, even if the loop waits."""

PREVIEW_S = 15.0


def run(paths: Paths, name: str) -> int:
    """Run until SIGTERM or SIGINT; SIGHUP reads the context again. Containers continue.

    Raises AgentError ``agent.running`` when another agent has this root or name.
    """
    os.umask(0o077)
    log.configure("INFO", tty=sys.stderr.isatty())
    with take_ownership(paths, name):
        agent = Agent(_options(paths, name))
        stop, ended, broke = threading.Event(), threading.Event(), threading.Event()
        with _signals() as (woken, waker):

            def loop() -> None:
                try:
                    agent.run(stop)
                except BaseException:
                    broke.set()
                    raise  # the traceback goes to the journal; systemd restarts the agent
                finally:
                    ended.set()
                    stop.set()
                    with contextlib.suppress(OSError):  # the main thread has gone already
                        waker.send(b"\0")

            def end(*_: object) -> None:
                stop.set()
                agent.wake()

            signal.signal(signal.SIGTERM, end)
            signal.signal(signal.SIGINT, end)
            signal.signal(signal.SIGHUP, lambda *_: agent.wake(again=True))
            # The loop has its own thread, so that a call that hangs cannot delay the end.
            threading.Thread(target=loop, name="loop", daemon=True).start()
            while not stop.is_set():
                woken.recv(64)
            ended.wait(END_S)
    return int(broke.is_set())


def plan(paths: Paths, name: str, context: pathlib.Path | None, *, as_json: bool = False) -> int:
    """Print the next steps of ``run`` with their causes. Returns 1 if the VM could not start.

    Changes nothing.
    """
    log.configure("CRITICAL", tty=sys.stderr.isatty())
    _, findings = sources.judge(sources.read(paths, context_file=context))
    unmet, steps = Agent(_options(paths, name, context), dry=True).preview(PREVIEW_S)
    fatal = unmet is not None and unmet.fatal
    wrong = fatal or any(f.severity is Severity.ERROR for f in findings)
    if as_json:
        document = {
            "schema": 1,
            "ok": not wrong,
            "findings": [dataclasses.asdict(found) for found in findings],
            "steps": steps,
            "waits": dataclasses.asdict(unmet) if unmet else None,
        }
        print(json.dumps(document, indent=1))
        return int(wrong)
    print("\n".join(_planned(findings, steps, unmet)))
    return int(wrong)


def _planned(findings: Iterable[Finding], steps: list[str], unmet: Unmet | None) -> Iterator[str]:
    for found in findings:
        yield f"{found.severity}: {found}\n  fix: {found.hint}"
    yield from steps
    if unmet is not None:
        because = f": {unmet.finding}" if unmet.finding else ""
        yield f"then waits in phase {unmet.phase}{because}"
        if unmet.finding:
            yield f"  fix: {unmet.finding.hint}"
    elif not steps:
        yield "nothing to do: the VM is in the wanted state"


@contextlib.contextmanager
def _signals() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a socket that becomes readable after each signal, and its other end.

    The kernel may deliver a signal to any thread, such as one of gRPC. Python runs the handler only
    in the main thread, which a lock would not wake.
    """
    woken, waker = socket.socketpair()
    with woken, waker:
        waker.setblocking(False)
        before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        try:
            yield woken, waker
        finally:
            signal.set_wakeup_fd(before)


def _options(paths: Paths, name: str, context: pathlib.Path | None = None) -> Options:
    return Options(
        paths=paths,
        context_file=context,
        name=name,
        docker_url=socket_url(),
        wheels=builder.source(os.environ),
        notify_socket=os.environ.get("NOTIFY_SOCKET", ""),
        tty=sys.stderr.isatty(),
        scale=float(os.environ.get("FLOWER_AGENT_TIME_SCALE", "1")),
    )
