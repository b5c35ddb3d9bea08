"""The commands ``down`` and ``reset``."""

import contextlib
import datetime
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

from flower_agent.agent import daemon
from flower_agent.commands import recording
from flower_agent.docker import one_shot
from flower_agent.docker.client import Engine, socket_url
from flower_agent.docker.containers import Component, Existing
from flower_agent.docker.one_shot import DataVolumes
from flower_agent.images.build_container import BuildContainers
from flower_agent.model.errors import StateFileError
from flower_agent.model.record import Entry, Event
from flower_agent.paths import Paths
from flower_agent.proxy.proxy_files import ProxyFiles
from flower_agent.reporting import farewell
from flower_agent.roles import gateway_host

UNITS = ("flower-agent.service", "flower-gateway.service")
SYSTEMCTL = "/usr/bin/systemctl"


def down(paths: Paths, name: str) -> int:
    """Stop the units, then stop and remove this agent's containers.

    Raises AgentError ``agent.running`` when an agent runs that the unit does not: it would bring
    the containers back.
    """
    with _only_one(paths, name):
        _tell_onegate(paths)
        with recording.attempted(paths, Entry(what=Event.AGENT_DOWN)):
            _remove(Engine(name or "default", url=socket_url()))
        ProxyFiles(paths.proxy).clear()
        gateway_host.clear(paths)
        farewell.to_files(paths, _now())
    print("the containers are removed; the state stays")
    return 0


def reset(paths: Paths, name: str) -> int:
    """Do `down`, and clear all state; the training data in ``data/`` stays."""
    with _only_one(paths, name):
        _tell_onegate(paths)
        _remove(Engine(name or "default", url=socket_url()))
        ProxyFiles(paths.proxy).clear()
        gateway_host.clear(paths)
        if paths.state.is_dir():
            for entry in paths.state.iterdir():
                if entry != paths.data:
                    _delete(entry)
        paths.onegate.unlink(missing_ok=True)
        farewell.to_files(paths, _now())
    print("the state is removed")
    return 0


def clear_caches(paths: Paths) -> int:
    """Remove the downloads of apps; running apps download them again."""
    if paths.caches.is_dir():
        for entry in paths.caches.iterdir():
            _delete(entry)
    print("the apps' download caches are removed")
    return 0


@contextlib.contextmanager
def _only_one(paths: Paths, name: str) -> Iterator[None]:
    """Be the one process of this root and name, after the units were stopped."""
    if paths.root == pathlib.Path("/") and pathlib.Path("/run/systemd/system").is_dir():
        subprocess.run([SYSTEMCTL, "stop", *UNITS], check=False, timeout=60)
    with daemon.take_ownership(paths, name):
        yield


def _tell_onegate(paths: Paths) -> None:
    """Report to OneGate first: the next steps may fail, and nothing is ready from now on."""
    trouble = farewell.to_onegate(paths, _now())
    if trouble:
        print(f"OneGate did not get the report that this VM is stopped: {trouble}", file=sys.stderr)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _remove(engine: Engine) -> None:
    BuildContainers(engine).sweep()
    one_shot.clear(engine)
    mine = [c for c in engine.containers() if c.mine]
    order = list(Component)
    for found in sorted(mine, key=lambda c: -_rank(c, order)):
        if found.running:
            print(f"stop {found.name}")
            engine.stop(found.name)
        print(f"remove {found.name}")
        engine.remove(found.name)
    DataVolumes(engine).sweep("")


def _rank(container: Existing, order: list[Component]) -> int:
    return next((i for i, part in enumerate(order) if container.name.endswith(part.value)), 0)


def _delete(entry: pathlib.Path) -> None:
    try:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    except OSError as error:
        raise StateFileError(
            "state.unwritable", f"{entry} cannot be removed: {error.strerror}"
        ) from error
