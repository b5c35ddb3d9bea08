"""Containers in which an image is made: run to their end, become the image, and are removed.

A container becomes an image in one call (``POST /commit``), so that an image is whole or not
there; and no build needs the Engine's image builder, which differs between its versions. These
containers bear a label of their own: the agent's loop never takes them for Flower's.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import docker.errors
import docker.types

from flower_agent.errors import AgentError
from flower_agent.wanted.containers import FLOWER_UID
from flower_agent.wanted.images import Image, Reference

from .engine import PIDS_LIMIT, Engine

LABEL_BUILD = "org.flower-agent.build"
"""Whose building container it is."""

LONG_S = 1800
"""Making an image of some GB, or removing them, takes minutes on a slow disk."""

LOOK_S = 0.5
LAST_LINES = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a program in a building container ended."""

    container_id: str
    exit_code: int
    said: str
    """Its last lines."""


class Workbench:
    """Building containers of one Engine."""

    def __init__(self, engine: Engine, *, limit_s: float = 3600.0) -> None:
        self._engine = engine
        self._limit_s = limit_s

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
    ) -> Iterator[Ended]:
        """Run a program as Flower's user; the container is there until the block ends.

        `mounts` are target → source and whether it may be written. `progress` is given its last
        line now and then. Raises AgentError ``image.build`` when it takes more than the limit.
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
        try:
            with self._engine.calling("start a building container", "image.build") as api:
                api.start(made)
            yield self._await(made, progress)
        finally:
            self._remove(made)

    def commit(self, container_id: str, reference: str, parent: Image, label: str) -> None:
        """Make the image `reference` of a container, with `label` (``NAME=VALUE``).

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
        """Remove building containers that a killed agent left."""
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
        binds = [
            docker.types.Mount(target, source, type="bind", read_only=not writable)
            for target, (source, writable) in mounts.items()
        ]
        host_config = api.create_host_config(
            network_mode="host" if online else "none",
            init=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mounts=binds,
            pids_limit=PIDS_LIMIT,
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

    def _await(self, container_id: str, progress: Callable[[str], None]) -> Ended:
        end = time.monotonic() + self._limit_s
        while True:
            with self._engine.calling("look at a building container", "image.build") as api:
                state = api.inspect_container(container_id)["State"]
                said = bytes(api.logs(container_id, tail=LAST_LINES)).decode("utf-8", "replace")
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            if not state.get("Running"):
                return Ended(container_id, int(state.get("ExitCode") or 0), "\n".join(lines))
            progress(lines[-1] if lines else "")
            if time.monotonic() > end:
                limit = f"it did not end within {self._limit_s:.0f} s"
                raise AgentError("image.build", f"gave up on a build: {limit}", retryable=True)
            time.sleep(LOOK_S)

    def _remove(self, container_id: str) -> None:
        with (
            self._engine.calling("remove a building container", timeout_s=LONG_S) as api,
            contextlib.suppress(docker.errors.NotFound),
        ):
            api.remove_container(container_id, force=True, v=True)
