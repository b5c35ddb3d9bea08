"""Containers that build an image: they run to their end, become the image, and are removed.

A container becomes an image in one call (``POST /commit``), so that an image is whole or not
there; and no build needs the Engine's image builder, which differs between its versions. These
containers bear a label of their own: the agent's loop never takes them for Flower's.

Wheels of strangers are unpacked and imported here. Memory, processes, log, time and the size of a
file have limits; what a container writes in all has none in Docker (overlay2 on ext4), so the free
room of both disks is looked at while it runs.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import docker.errors
import docker.types

from flower_agent.docker.client import LOG_OPTIONS, Engine
from flower_agent.docker.containers import FLOWER_UID, Mount
from flower_agent.docker.image_references import Image, Reference
from flower_agent.model.errors import AgentError
from flower_agent.process import OOM_SCORE_ADJ

LABEL_BUILD = "org.flower-agent.build"
"""The owner of a building container."""

LONG_S = 1800
"""On a slow disk it takes minutes to write or remove an image of some GB."""

LOOK_S = 0.5
LAST_LINES = 20

MEMORY_BYTES = 2 << 30
"""More than pip or the import of a framework needs."""

PIDS = 1024
FILE_BYTES = 8 << 30
"""More than any library of CUDA has."""

KEPT_FREE_BYTES = 512 << 20
"""Free space that no build may use: the SuperLink's database may be on this disk."""


@dataclasses.dataclass(frozen=True, slots=True)
class BuildExit:
    """How a program in a building container ended."""

    container_id: str
    exit_code: int
    said: str
    """Its last lines."""


class BuildContainers:
    """Building containers of one Engine."""

    def __init__(
        self, engine: Engine, *, limit_s: float = 3600.0, kept_bytes: int = KEPT_FREE_BYTES
    ) -> None:
        self._engine = engine
        self._limit_s = limit_s
        self._kept_bytes = kept_bytes

    @contextlib.contextmanager
    def run(
        self,
        image: str,
        command: tuple[str, ...],
        *,
        mounts: Mapping[str, tuple[str, bool]],
        online: bool,
        environment: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = lambda _: None,
        limit_s: float | None = None,
    ) -> Iterator[BuildExit]:
        """Run a program as Flower's user; the container exists until the block ends.

        `mounts` are target → source and whether it may be written. `progress` is given its last
        line now and then. Raises AgentError ``image.build`` when it takes more time than the limit,
        or the last of a disk.
        """
        with self._engine.calling("create a building container", "image.build") as api:
            found = self._create(
                api,
                image,
                command,
                mounts=mounts,
                online=online,
                environment=environment or {},
            )
            made = str(found["Id"])
            writable = (source for source, writes in mounts.values() if writes)
            disks = (str(api.info().get("DockerRootDir") or "/"), *writable)
        try:
            with self._engine.calling("start a building container", "image.build") as api:
                api.start(made)
            yield self._await(made, progress, limit_s or self._limit_s, disks)
        finally:
            self._remove(made)

    def commit(self, container_id: str, reference: str, parent: Image, label: str) -> None:
        """Create the image `reference` from a container, with `label` (``NAME=VALUE``).

        It gets the entry point of `parent` back, and nothing of this build's settings.
        """
        wanted = Reference.parse(reference)
        name, _, value = label.partition("=")
        with self._engine.calling(f"make {reference}", "image.build", timeout_s=LONG_S) as api:
            api.commit(
                container_id,
                wanted.repository,
                wanted.tag,
                changes=[
                    f"ENTRYPOINT {json.dumps(parent.entrypoint)}",
                    "CMD []",
                    f"LABEL {name}={json.dumps(value)} {LABEL_BUILD}=",
                ],
            )

    def sweep(self) -> None:
        """Remove building containers of a killed agent."""
        label = f"{LABEL_BUILD}={self._engine.owner}"
        with self._engine.calling("list building containers") as api:
            left = [str(row["Id"]) for row in api.containers(all=True, filters={"label": label})]
        for container_id in left:
            self._remove(container_id)

    def _create(
        self,
        api: Any,
        image: str,
        command: tuple[str, ...],
        *,
        mounts: Mapping[str, tuple[str, bool]],
        online: bool,
        environment: Mapping[str, str],
    ) -> Any:
        wanted = [
            Mount(source, target, read_only=not writable)
            for target, (source, writable) in mounts.items()
        ]
        host_config = api.create_host_config(
            network_mode="host" if online else "none",
            init=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            restart_policy={"Name": "no"},
            **self._engine.bindings(api, wanted),
            pids_limit=PIDS,
            mem_limit=MEMORY_BYTES,
            memswap_limit=MEMORY_BYTES,
            oom_score_adj=OOM_SCORE_ADJ,
            ulimits=[{"Name": "fsize", "Soft": FILE_BYTES, "Hard": FILE_BYTES}],
            log_config=docker.types.LogConfig(type="json-file", config=LOG_OPTIONS),
        )
        return api.create_container(
            image,
            entrypoint=list(command[:1]),
            command=list(command[1:]),
            user=f"{FLOWER_UID}:{FLOWER_UID}",
            environment=dict(environment),
            labels={LABEL_BUILD: self._engine.owner},
            host_config=host_config,
            healthcheck={"test": ["NONE"]},
            use_config_proxy=False,
        )

    def _await(
        self,
        container_id: str,
        progress: Callable[[str], None],
        limit_s: float,
        disks: tuple[str, ...],
    ) -> BuildExit:
        end = time.monotonic() + limit_s
        while True:
            with self._engine.calling("look at a building container", "image.build") as api:
                state = api.inspect_container(container_id)["State"]
                said = bytes(api.logs(container_id, tail=LAST_LINES)).decode("utf-8", "replace")
            plain = ("".join(filter(str.isprintable, line)).strip() for line in said.splitlines())
            lines = [line for line in plain if line]
            if not state.get("Running"):
                if state.get("OOMKilled"):
                    limit = f"{MEMORY_BYTES >> 20} MiB of memory"
                    lines.append(f"ERROR: it needed more than {limit} and was killed")
                return BuildExit(container_id, int(state.get("ExitCode") or 0), "\n".join(lines))
            progress(lines[-1] if lines else "")
            if time.monotonic() > end:
                limit = f"it did not end within {limit_s:.0f} s"
                raise AgentError("image.build", f"gave up on a build: {limit}", retryable=True)
            for disk in disks:
                self._look_at(disk)
            time.sleep(LOOK_S)

    def _look_at(self, disk: str) -> None:
        """Raise AgentError ``image.build`` where a build took all but what is kept free."""
        try:
            found = os.statvfs(disk)
        except OSError:
            return  # the Engine is on another machine
        room = found.f_bavail * found.f_frsize
        if room < self._kept_bytes:
            left = f"{disk} has {room / 1e6:.0f} MB left, all of which are reserved"
            raise AgentError("image.build", f"gave up on a build: {left}", retryable=True)

    def _remove(self, container_id: str) -> None:
        with (
            self._engine.calling("remove a building container", timeout_s=LONG_S) as api,
            contextlib.suppress(docker.errors.NotFound),
        ):
            api.remove_container(container_id, force=True, v=True)
