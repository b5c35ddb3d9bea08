"""Small containers for one task, without network and with limits; each is removed afterwards.

A mount that hangs holds up its container alone: every call has a time limit. A separate label
names the owner of a container, so that `plan` ignores it, and the next agent finds what a killed
one left.
"""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import docker.errors
import requests

from flower_agent.docker import data_mounts
from flower_agent.docker.client import LOG_OPTIONS, Engine
from flower_agent.docker.containers import FLOWER_UID, LABEL_NAME, Mount
from flower_agent.model import errors
from flower_agent.model.errors import AgentError, DataRefusedError
from flower_agent.process import OOM_SCORE_ADJ

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
def created(engine: Engine, api: Any, image: str, job: Job) -> Iterator[str]:
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


def exit_status(
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
    """Remove containers of a killed agent; younger ones than `older_s` may still work."""
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


LABEL = "org.flower-agent.one-shot"
TIMEOUT_S = 1800.0
"""The hashes of a run's files take minutes on a slow disk."""

ANSWER_BYTES = 4 * 1024 * 1024
LEFT_AFTER_S = 2 * TIMEOUT_S


def run(
    engine: Engine,
    image: str,
    command: Sequence[str],
    *,
    mounts: Mapping[str, tuple[str, bool]],
    code: str,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """Return what `command` printed, run as Flower's user in `image`.

    `mounts` are target → source and whether it may be written. Raises AgentError `code` where it
    fails or takes longer than `timeout_s`, and ``docker.…``.
    """
    bound = tuple(
        Mount(source, target, read_only=not writable)
        for target, (source, writable) in mounts.items()
    )
    job = Job(label=LABEL, command=tuple(command), mounts=bound)
    message = f"a one-shot container did not end within {timeout_s:.0f} s"
    late = errors.kind(code)(code, message, retryable=True)
    with engine.calling("run a one-shot container", code) as api:
        sweep(api, LABEL, engine.owner, older_s=LEFT_AFTER_S)
        with created(engine, api, image, job) as made:
            api.start(made)
            status = exit_status(api, made, timeout_s=timeout_s, late=late, look_max_s=LOOK_MAX_S)
            answer = _output(api, made)
            if status != 0:
                lines = _output(api, made, errors=True).decode("utf-8", "replace").splitlines()
                why = lines[-1][:300] if lines else f"status {status}"
                raise late.reworded(f"a one-shot container failed: {why}")
    return answer


def _output(api: Any, made: str, *, errors: bool = False) -> bytes:
    """Return what it printed, as far as the limit."""
    buffer = bytearray()
    for chunk in api.logs(made, stdout=not errors, stderr=errors, stream=True):
        buffer += bytes(chunk)
        if len(buffer) > ANSWER_BYTES:
            break
    return bytes(buffer[:ANSWER_BYTES])


def clear(engine: Engine) -> None:
    """Remove all of them; only while no agent runs. Raises AgentError ``docker.…``."""
    with engine.calling("remove one-shot containers") as api:
        sweep(api, LABEL, engine.owner)


VOLUME_LABEL = "org.flower-agent.data"
LIMIT_S = 120
"""Time limit of a mount and of a check: enough to give up on a silent NFS server."""

_SAID_BYTES = 4096


class DataVolumes:
    """The volumes and looks of one agent."""

    def __init__(self, engine: Engine, *, limit_s: int = LIMIT_S) -> None:
        self._engine = engine
        self._limit_s = limit_s

    @property
    def owner(self) -> str:
        """The owner of the volumes."""
        return self._engine.owner

    def look(self, mount: Mount, image: str) -> str:
        """Return what `data_mounts.PROGRAM` says of the data. Raises AgentError ``data.refused``.

        The message of the error ends in Docker's own words.
        """
        command = ("python", "-I", "-c", data_mounts.PROGRAM)
        job = Job(label=VOLUME_LABEL, command=command, mounts=(mount,))
        message = f"the data was not read within {self._limit_s} s"
        late = DataRefusedError("data.refused", message, retryable=True)
        with self._engine.calling("mount the data", "data.refused", timeout_s=self._limit_s) as api:
            sweep(api, VOLUME_LABEL, self.owner)
            with created(self._engine, api, image, job) as made:
                self._start(api, made)
                exit_status(api, made, timeout_s=self._limit_s, late=late)
                return bytes(api.logs(made, tail=5)).decode("utf-8", "replace")[-_SAID_BYTES:]

    def sweep(self, keep: str) -> None:
        """Remove this agent's volumes of data that no container uses, all but `keep`."""
        filters = {"label": f"{LABEL_NAME}={self.owner}", "dangling": "true"}
        with self._engine.calling("list volumes", timeout_s=self._limit_s) as api:
            sweep(api, VOLUME_LABEL, self.owner)
            for row in api.volumes(filters=filters).get("Volumes") or ():
                name = str(row["Name"])
                if name != keep and name.startswith(data_mounts.prefix(self.owner)):
                    with contextlib.suppress(docker.errors.APIError):  # in use again
                        api.remove_volume(name)

    def _start(self, api: Any, made: str) -> None:
        """Start the look; a server that is away holds it up, and not Docker as a whole."""
        try:
            api.start(made)
        except requests.Timeout as error:
            message = f"Docker refused to mount the data within {self._limit_s} s: timed out"
            raise DataRefusedError("data.refused", message, retryable=True) from error
