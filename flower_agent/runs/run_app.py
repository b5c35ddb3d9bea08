"""What a Flower app says of itself: its ``pyproject.toml``, read as data. Pure.

Leans on Flower's own reading (flwr/common/config.py, `get_metadata_from_config`, `flatten_dict`),
alike from 1.23 to 1.42: nested tables of the config are keys with a dot between. Whoever writes a
repository writes this text, and ``tomllib`` takes half a minute for a key of 20,000 parts and the
interpreter's stack for nested arrays: what no app has is refused before.
"""

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from flower_agent.errors import AgentError
from flower_agent.probes.control import Scalar

FILE = "pyproject.toml"
MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
"""So many parts a key may have, and so deep arrays and inline tables may nest."""

MAX_DEPENDENCIES = 500
MAX_TEXT = 1000
"""Characters of a name, a version, or one dependency."""

_MARK = re.compile(r"""[\[\]{}.,=\n#]|\"{3}|'{3}|["']""")
_STRING_END = {
    '"': re.compile(r'\\.|["\n]', re.DOTALL),
    "'": re.compile(r"['\n]"),
    '"' * 3: re.compile(r'\\.|"{3,5}', re.DOTALL),
    "'" * 3: re.compile(r"'{3,5}"),
    "#": re.compile(r"\n"),
}
"""TOML 1.0: how strings and comments begin and end, escapes apart. A string here and none for
``tomllib`` would hide depth: two more quotes may end a string of three."""


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
        document = tomllib.loads(_bounded(data or b""))
        project, flower = document["project"], document["tool"]["flwr"]["app"]
        components = flower["components"]
        lacking = [name for name in ("serverapp", "clientapp") if not components.get(name)]
        name, version = f"{flower['publisher']}/{project['name']}", str(project["version"])
        config = tuple(_flat(flower.get("config") or {}))
        dependencies = tuple(map(str, project.get("dependencies") or ()))
        _hold(name, version, *dependencies)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        why = f"there is no {FILE}" if data is None else _why(error)
        message = f"{where} is no Flower app: {why}"
        raise AgentError("run.no_app", message, retryable=True) from None
    if lacking:
        message = f"{where} is no Flower app: [tool.flwr.app.components] has no {lacking[0]}"
        raise AgentError("run.no_app", message, retryable=True)
    return App(name, version, config, dependencies)


class _TooMuchError(ValueError):
    """No app's `FILE` has so much of this."""


def _bounded(data: bytes) -> str:
    """Return the text where ``tomllib`` reads it quickly. Raises _TooMuchError, ValueError."""
    if len(data) > MAX_BYTES:
        raise _TooMuchError(f"is larger than {MAX_BYTES // 1024} KiB")
    text = data.decode()
    at = depth = parts = 0
    while (mark := _MARK.search(text, at)) is not None:
        at, found = mark.end(), mark[0]
        if found in _STRING_END:
            at = _after(text, at, found)
            continue
        depth += (found in "[{") - (found in "]}")
        parts = parts + 1 if found == "." else 0
        if max(depth, parts) > MAX_DEPTH:
            raise _TooMuchError(f"nests keys, arrays or tables more than {MAX_DEPTH} deep")
    return text


def _after(text: str, at: int, begun: str) -> int:
    """Return where the string or comment ends whose inside begins at `at`."""
    for found in _STRING_END[begun].finditer(text, at):
        if not found[0].startswith("\\"):
            return found.end()
    return len(text)


def _hold(*texts: str) -> None:
    if len(texts) > MAX_DEPENDENCIES or any(len(text) > MAX_TEXT for text in texts):
        limit = f"{MAX_DEPENDENCIES} dependencies or {MAX_TEXT} characters in one"
        raise _TooMuchError(f"has more than {limit}")
    if not all(text.isprintable() for text in texts):  # a terminal would obey some of it
        raise _TooMuchError("has control characters in a name, a version or a dependency")


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", value


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"its {FILE} lacks {error.args[0]}"
    if isinstance(error, _TooMuchError):
        return f"its {FILE} {error}"
    if isinstance(error, tomllib.TOMLDecodeError):
        return f"its {FILE} is no TOML: {error}"
    return f"its {FILE} is not of Flower's form"
