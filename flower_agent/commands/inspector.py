"""What ``doctor`` and ``support`` ask the Docker Engine beside what the agent needs of it."""

import dataclasses
from typing import Any

from flower_agent.errors import AgentError
from flower_agent.steps.engine import Engine, auth
from flower_agent.wanted.images import Reference, Registry, pull_failure


@dataclasses.dataclass(frozen=True, slots=True)
class About:
    """What the Engine says of itself (``GET /info``)."""

    version: str

    root: str
    """Where it keeps images and containers (``DockerRootDir``)."""

    live_restore: bool
    """Containers outlive a restart of dockerd."""

    proxy: str = ""
    """By which it reaches registries; Docker hides a password in it."""


class Inspector(Engine):
    """An Engine that is only looked at."""

    def about(self) -> About:
        """Return version, place and set-up. Raises AgentError ``docker.…``."""
        with self.calling("tell about itself") as api:
            info = api.info()
        return About(
            version=str(info.get("ServerVersion") or "of unknown version"),
            root=str(info.get("DockerRootDir") or ""),
            live_restore=bool(info.get("LiveRestoreEnabled")),
            proxy=str(info.get("HttpsProxy") or info.get("HttpProxy") or ""),
        )

    def ask_registry(self, reference: str, registry: Registry | None) -> None:
        """Let Docker ask the registry for an image, as a pull would, without pulling it.

        Raises AgentError ``image.denied``, ``image.pull``, or ``docker.down`` where no answer
        comes in time.
        """
        wanted = Reference.parse(reference)
        name = f"{wanted.repository}:{wanted.tag}"
        try:
            with self.calling(f"ask the registry for {reference}", "image.pull") as api:
                ask: Any = api.inspect_distribution  # the stubs lack its types
                ask(name, auth_config=auth(registry))
        except AgentError as error:
            if error.finding.code != "image.pull":
                raise
            raise pull_failure(reference, error.finding.message) from error

    def describe(self, name: str) -> Any:
        """Return all that Docker knows of a container. Raises AgentError ``docker.…``."""
        with self.calling(f"inspect {name}") as api:
            return api.inspect_container(name)

    def information(self) -> Any:
        """Return all that Docker tells of itself. Raises AgentError ``docker.…``."""
        with self.calling("tell about itself") as api:
            return api.info()
