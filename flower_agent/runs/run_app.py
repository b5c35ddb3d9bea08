"""What a Flower app says of itself: its ``pyproject.toml``, read as data. Pure.

Leans on Flower's own reading (flwr/common/config.py, `get_metadata_from_config`, `flatten_dict`),
alike from 1.23 to 1.42: nested tables of the config are keys with a dot between.
"""

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from flower_agent.errors import AgentError
from flower_agent.probes.control import Scalar

FILE = "pyproject.toml"


@dataclasses.dataclass(frozen=True, slots=True)
class App:
    """A Flower app by its own words."""

    name: str
    """``publisher/name``, as Flower lists it."""

    version: str

    config: tuple[tuple[str, Scalar], ...] = ()
    """``[tool.flwr.app.config]``: each key that a run may set, with its default."""

    dependencies: tuple[str, ...] = ()
    """``[project] dependencies``, PEP 508; the images need them, a bundle brings none."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def read(data: bytes | None, where: str) -> App:
    """Return the app whose ``pyproject.toml`` is `data`. Raises AgentError ``run.no_app``.

    `where` is what messages call it.
    """
    try:
        document = tomllib.loads((data or b"").decode())
        project, flower = document["project"], document["tool"]["flwr"]["app"]
        components = flower["components"]
        lacking = [name for name in ("serverapp", "clientapp") if not components.get(name)]
        name, version = f"{flower['publisher']}/{project['name']}", str(project["version"])
        config = tuple(_flat(flower.get("config") or {}))
        dependencies = tuple(map(str, project.get("dependencies") or ()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        why = f"there is no {FILE}" if data is None else _why(error)
        message = f"{where} is no Flower app: {why}"
        raise AgentError("run.no_app", message, retryable=True) from None
    if lacking:
        message = f"{where} is no Flower app: [tool.flwr.app.components] has no {lacking[0]}"
        raise AgentError("run.no_app", message, retryable=True)
    return App(name, version, config, dependencies)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", value


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"its {FILE} lacks {error.args[0]}"
    if isinstance(error, tomllib.TOMLDecodeError):
        return f"its {FILE} is no TOML: {error}"
    return f"its {FILE} is not of Flower's form"
