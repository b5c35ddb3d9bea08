"""The data of apps as Docker mounts it: a look at it as their user, and the volumes behind it.

The look runs in a container of the image that runs apps, without network, and removes it again. A
mount that hangs holds up that container alone: every call has a time limit.
"""

import contextlib
import time
from typing import Any

import docker.errors
import requests

from flower_agent.errors import AgentError
from flower_agent.wanted import app_data
from flower_agent.wanted.containers import FLOWER_UID, LABEL_NAME, Mount

from .engine import Engine, mounted

LABEL = "org.flower-agent.data"
LIMIT_S = 120
"""For a mount, and for the look: an NFS server that is away is given up on by then."""

MEMORY_BYTES = 256 * 1024 * 1024
PIDS = 64
LOOK_S = 0.05
_SAID_BYTES = 4096


class DataVolumes:
    """The volumes and looks of one agent."""

    def __init__(self, engine: Engine, *, limit_s: int = LIMIT_S) -> None:
        self._engine = engine
        self._limit_s = limit_s

    @property
    def owner(self) -> str:
        """Whose they are."""
        return self._engine.owner

    def look(self, mount: Mount, image: str) -> str:
        """Return what `app_data.PROGRAM` says of the data. Raises AgentError ``data.refused``.

        The message of the error ends in Docker's own words.
        """
        with self._engine.calling("mount the data", "data.refused", timeout_s=self._limit_s) as api:
            self._clear(api)
            made = self._create(api, mount, image)
            try:
                self._start(api, made)
                self._wait(api, made)
                return bytes(api.logs(made, tail=5)).decode("utf-8", "replace")[-_SAID_BYTES:]
            finally:
                _remove(api, made)

    def sweep(self, keep: str) -> None:
        """Remove this agent's volumes of data that no container uses, all but `keep`."""
        filters = {"label": f"{LABEL_NAME}={self.owner}", "dangling": "true"}
        with self._engine.calling("list volumes", timeout_s=self._limit_s) as api:
            self._clear(api)
            for row in api.volumes(filters=filters).get("Volumes") or ():
                name = str(row["Name"])
                if name != keep and name.startswith(app_data.prefix(self.owner)):
                    with contextlib.suppress(docker.errors.APIError):  # in use again
                        api.remove_volume(name)

    def _clear(self, api: Any) -> None:
        """Remove what a killed agent left."""
        label = f"{LABEL}={self.owner}"
        for left in api.containers(all=True, filters={"label": label}):
            _remove(api, left["Id"])

    def _create(self, api: Any, mount: Mount, image: str) -> str:
        made = api.create_container(
            image,
            entrypoint=["python"],
            command=["-I", "-c", app_data.PROGRAM],
            user=f"{FLOWER_UID}:{FLOWER_UID}",
            labels={LABEL: self.owner},
            network_disabled=True,
            healthcheck={"test": ["NONE"]},
            use_config_proxy=False,
            host_config=api.create_host_config(
                network_mode="none",
                restart_policy={"Name": "no"},
                init=True,
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mounts=[mounted(mount, self.owner)],
                pids_limit=PIDS,
                mem_limit=MEMORY_BYTES,
                memswap_limit=MEMORY_BYTES,
                log_config={"Type": "json-file", "Config": {"max-size": "64k", "max-file": "1"}},
            ),
        )
        return str(made["Id"])

    def _start(self, api: Any, made: str) -> None:
        """Start the look; a server that is away holds it up, and not Docker as a whole."""
        try:
            api.start(made)
        except requests.Timeout as error:
            message = f"Docker refused to mount the data within {self._limit_s} s: timed out"
            raise AgentError("data.refused", message, retryable=True) from error

    def _wait(self, api: Any, made: str) -> None:
        end = time.monotonic() + self._limit_s
        while api.inspect_container(made)["State"]["Running"]:
            if time.monotonic() > end:
                message = f"the data was not read within {self._limit_s} s"
                raise AgentError("data.refused", message, retryable=True)
            time.sleep(LOOK_S)


def _remove(api: Any, made: str) -> None:
    """Remove a look; one whose mount still hangs is removed before the next."""
    with contextlib.suppress(docker.errors.NotFound, requests.Timeout):
        api.remove_container(made, force=True, v=True)
