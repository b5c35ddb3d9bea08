"""What an operator does to the containers: ``logs``, ``down``, ``reset``."""

import contextlib
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

from . import exits, ownership, roles
from .containers import Existing, Part
from .engine import Engine
from .errors import AgentError
from .paths import Paths

UNIT = "flower-agent.service"
SYSTEMCTL = "/usr/bin/systemctl"


def logs(name: str, container: str | None, lines: int, *, follow: bool) -> int:
    """Print the containers' last lines, each with its part in front where there are several."""
    engine = _engine(name)
    chosen = _chosen(engine.containers(), name, container)
    if not chosen:
        have = ", ".join(c.name for c in engine.containers() if c.mine)
        there = f"no container {container}; there is {have}" if have else "there are no containers"
        print(f"{there} of this agent", file=sys.stderr)
        return 1
    prefix = len(chosen) > 1
    if not follow:
        for found in chosen:
            for line in engine.logs(found.name, tail=lines).splitlines():
                _say(found, line, prefix=prefix)
        return 0
    _follow_all(engine, chosen, lines)
    return 0


def down(paths: Paths, name: str) -> int:
    """Stop the unit, then stop and remove this agent's containers.

    Raises AgentError ``agent.running`` when an agent runs that the unit does not: it would bring
    the containers back.
    """
    with _only_one(paths, name):
        _remove(_engine(name))
    print("the containers are removed; state is kept")
    return 0


def reset(paths: Paths, name: str) -> int:
    """Do `down`, and clear all state; the training data in ``data/`` stays."""
    with _only_one(paths, name):
        _remove(_engine(name))
        if paths.state.is_dir():
            for entry in paths.state.iterdir():
                if entry != paths.data:
                    _delete(entry)
        for leftover in ("status.json", "onegate.json"):
            (paths.runtime / leftover).unlink(missing_ok=True)
    print("state is cleared")
    return 0


@contextlib.contextmanager
def _only_one(paths: Paths, name: str) -> Iterator[None]:
    """Be the one process of this root and name, after the unit was stopped."""
    if paths.root == pathlib.Path("/") and pathlib.Path("/run/systemd/system").is_dir():
        subprocess.run([SYSTEMCTL, "stop", UNIT], check=False, timeout=60)
    with ownership.take(paths, name):
        yield


def _remove(engine: Engine) -> None:
    mine = [c for c in engine.containers() if c.mine]
    order = list(Part)
    for found in sorted(mine, key=lambda c: -_rank(c, order)):
        if found.running:
            print(f"stop {found.name}")
            engine.stop(found.name)
        print(f"remove {found.name}")
        engine.remove(found.name)


def _rank(container: Existing, order: list[Part]) -> int:
    return next((i for i, part in enumerate(order) if container.name.endswith(part.value)), 0)


def _delete(entry: pathlib.Path) -> None:
    try:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    except OSError as error:
        raise AgentError(
            "state.unwritable", f"{entry} cannot be removed: {error.strerror}"
        ) from error


def _chosen(
    found: tuple[Existing, ...], prefix: str, container: str | None
) -> tuple[Existing, ...]:
    names = {roles.name(prefix, part): part for part in Part}
    mine = tuple(c for c in found if c.mine)
    if container is None:
        return mine
    return tuple(c for c in mine if container in (c.name, names.get(c.name)))


def _follow_all(engine: Engine, chosen: tuple[Existing, ...], lines: int) -> None:
    """Follow each container in a thread; end with the first error, or when all have ended."""
    ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def follow(found: Existing) -> None:
        try:
            _follow(engine, found, lines, len(chosen) > 1)
        except (AgentError, BrokenPipeError) as error:
            ends.put(error)
        else:
            ends.put(None)

    for found in chosen:
        threading.Thread(target=follow, args=(found,), daemon=True).start()
    for _ in chosen:
        error = ends.get()
        if error is not None:
            raise error


def _follow(engine: Engine, found: Existing, lines: int, prefix: bool) -> None:  # noqa: FBT001
    rest = ""
    for chunk in engine.follow(found.name, tail=lines):
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            _say(found, line, prefix=prefix)


def _say(found: Existing, line: str, *, prefix: bool) -> None:
    if not sys.stdout.isatty():
        line = exits.strip_ansi(line)  # Flower colors its lines even into pipes
    print(f"{found.name} | {line}" if prefix else line, flush=True)


def _engine(name: str) -> Engine:
    url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    return Engine(name or "default", url=url)
