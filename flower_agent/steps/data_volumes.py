"""The data of apps as Docker mounts it: a look at it as their user, and the volumes behind it.

The look runs in a container of the image that runs apps, without network, and removes it again. A
mount that hangs holds up that container alone: every call has a time limit.
"""

import contextlib
from typing import Any

import docker.errors
import requests

from flower_agent.errors import AgentError
from flower_agent.wanted import app_data
from flower_agent.wanted.containers import LABEL_NAME, Mount

from . import small_container
from .engine import Engine
from .small_container import Job

LABEL = "org.flower-agent.data"
LIMIT_S = 120
"""For a mount, and for the look: an NFS server that is away is given up on by then."""

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
        command = ("python", "-I", "-c", app_data.PROGRAM)
        job = Job(label=LABEL, command=command, mounts=(mount,))
        message = f"the data was not read within {self._limit_s} s"
        late = AgentError("data.refused", message, retryable=True)
        with self._engine.calling("mount the data", "data.refused", timeout_s=self._limit_s) as api:
            small_container.sweep(api, LABEL, self.owner)
            with small_container.made(self._engine, api, image, job) as made:
                self._start(api, made)
                small_container.status(api, made, timeout_s=self._limit_s, late=late)
                return bytes(api.logs(made, tail=5)).decode("utf-8", "replace")[-_SAID_BYTES:]

    def sweep(self, keep: str) -> None:
        """Remove this agent's volumes of data that no container uses, all but `keep`."""
        filters = {"label": f"{LABEL_NAME}={self.owner}", "dangling": "true"}
        with self._engine.calling("list volumes", timeout_s=self._limit_s) as api:
            small_container.sweep(api, LABEL, self.owner)
            for row in api.volumes(filters=filters).get("Volumes") or ():
                name = str(row["Name"])
                if name != keep and name.startswith(app_data.prefix(self.owner)):
                    with contextlib.suppress(docker.errors.APIError):  # in use again
                        api.remove_volume(name)

    def _start(self, api: Any, made: str) -> None:
        """Start the look; a server that is away holds it up, and not Docker as a whole."""
        try:
            api.start(made)
        except requests.Timeout as error:
            message = f"Docker refused to mount the data within {self._limit_s} s: timed out"
            raise AgentError("data.refused", message, retryable=True) from error
