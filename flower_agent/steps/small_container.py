"""A container that does one thing without network, within limits, and is removed.

Whose it is stands in a label of its own, not in the agent's: no plan wants it. What a killed agent
left is found by that label.
"""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Iterator, Mapping
from typing import Any

import docker.errors
import requests

from flower_agent.errors import AgentError
from flower_agent.wanted.containers import FLOWER_UID, Mount

from .engine import LOG_OPTIONS, Engine

OOM_SCORE_ADJ = 500
"""Above that of Flower and of all services: where memory lacks, it goes first."""

LOOK_S = 0.1
LOOK_MAX_S = 2.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What runs in it as Flower's user, and how much of the VM it may take."""

    label: str
    """Name of the label that holds whose it is."""

    command: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    place: str = ""
    """Working directory; empty for the image's own."""

    writable: bool = False
    """It may write into its own file system."""

    memory_bytes: int = 256 * 1024 * 1024
    pids: int = 32
    file_bytes: int = 0
    """Largest file that it may write; 0 for any."""


@contextlib.contextmanager
def made(engine: Engine, api: Any, image: str, job: Job) -> Iterator[str]:
    """Give the id of a new container of the engine's owner, and remove it at the end."""
    found = api.create_container(
        image,
        entrypoint=list(job.command[:1]),
        command=list(job.command[1:]),
        user=f"{FLOWER_UID}:{FLOWER_UID}",
        environment=dict(job.environment),
        working_dir=job.place or None,
        labels={job.label: engine.owner},
        network_disabled=True,
        healthcheck={"test": ["NONE"]},
        use_config_proxy=False,
        host_config=_host_config(engine, api, job),
    )
    container_id = str(found["Id"])
    try:
        yield container_id
    finally:
        _remove(api, container_id)


def status(
    api: Any, container_id: str, *, timeout_s: float, late: AgentError, look_max_s: float = LOOK_S
) -> int:
    """Return the status with which it ends. Raises `late` where it takes longer."""
    end, pause_s = time.monotonic() + timeout_s, LOOK_S
    while True:
        state = api.inspect_container(container_id)["State"]
        if not state["Running"]:
            return int(state["ExitCode"])
        if time.monotonic() > end:
            raise late
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, look_max_s)


def sweep(api: Any, label: str, owner: str, *, older_s: float = float("-inf")) -> None:
    """Remove what a killed agent left; what is younger than `older_s` may be at work."""
    now = datetime.datetime.now(datetime.UTC).timestamp()
    for left in api.containers(all=True, filters={"label": f"{label}={owner}"}):
        if now - left.get("Created", 0.0) > older_s:
            with contextlib.suppress(docker.errors.APIError):
                _remove(api, left["Id"])


def _remove(api: Any, container_id: str) -> None:
    """Remove it; where that hangs, as with a mount whose server is away, the next sweep does."""
    with contextlib.suppress(docker.errors.NotFound, requests.Timeout):
        api.remove_container(container_id, force=True, v=True)


def _host_config(engine: Engine, api: Any, job: Job) -> Any:
    limit = job.file_bytes
    return api.create_host_config(
        network_mode="none",
        restart_policy={"Name": "no"},
        init=True,
        read_only=not job.writable,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=job.pids,
        mem_limit=job.memory_bytes,
        memswap_limit=job.memory_bytes,
        oom_score_adj=OOM_SCORE_ADJ,
        ulimits=[{"Name": "fsize", "Soft": limit, "Hard": limit}] if limit else None,
        **engine.bindings(api, job.mounts),
        log_config={"Type": "json-file", "Config": LOG_OPTIONS},
    )
