"""What an app's ``pyproject.toml`` says, and which of its keys the context's variables set. Pure.

Apps name the same thing differently; the names here are those of Flower's own templates and
examples. What an app does not declare is never sent: newer Flowers refuse it, older ones ignore it.

Leans on Flower's own reading (flwr/common/config.py, `get_metadata_from_config`, `flatten_dict`),
alike from 1.23 to 1.42: nested tables of the config are keys with a dot between. Whoever writes a
repository writes this text, and ``tomllib`` takes half a minute for a key of 20,000 parts and the
interpreter's stack for nested arrays: what no app has is refused before.
"""

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flower_agent.config.settings import Settings
from flower_agent.config.types import BOOLEANS
from flower_agent.flower import command_line
from flower_agent.flower.control_messages import Scalar
from flower_agent.model.errors import AgentError, Finding, warning

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
        message = f"{where} is not a Flower app: {why}"
        raise AgentError("run.no_app", message, retryable=True) from None
    if lacking:
        message = f"{where} is not a Flower app: [tool.flwr.app.components] has no {lacking[0]}"
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
        return f"its {FILE} is not TOML: {error}"
    return f"its {FILE} does not have Flower's form"


ROUNDS = (
    "num-server-rounds",
    "num-rounds",
    "server-rounds",
    "global-rounds",
    "num-global-rounds",
    "communication-rounds",
    "rounds",
)
STRATEGY = ("strategy", "strategy-name", "aggregation-strategy")
_FLOORS = (
    "min-clients",
    "min-nodes",
    "min-num-clients",
    "min-num-nodes",
    "min-available-clients",
    "min-available-nodes",
    "min-fit-clients",
    "min-train-clients",
    "min-train-nodes",
    "min-evaluate-clients",
    "min-evaluate-nodes",
)
CLIENTS = (*_FLOORS, *(f"strategy-{key}" for key in _FLOORS))
"""Keys in which `-`, `_` and `.` are alike. The first of rounds and strategy that an app declares
is set; of the clients all that it declares, also in a table ``strategy``."""


@dataclasses.dataclass(frozen=True, slots=True)
class RunConfig:
    """What a run sets of its app's config."""

    overrides: tuple[tuple[str, Scalar], ...]
    """Keys as the app writes them, values of its types."""

    findings: tuple[Finding, ...]
    """A warning for each variable that the app does not read."""


def fit(settings: Settings, app: App) -> RunConfig:
    """Return what the variables set in `app`.

    Raises AgentError ``run.config`` for a value that is not of the type the app declares.
    """
    declared = dict(app.config)
    overrides: dict[str, Scalar] = {}
    findings: list[Finding] = []
    for variable, value, names, every in _wanted(settings):
        keys = _declared(names, declared)
        for key in keys if every else keys[:1]:
            overrides[key] = _typed(variable, value, key, declared[key])
        if not keys:
            findings.append(_unread(variable, names, app))
    return RunConfig(tuple(sorted(overrides.items())), tuple(findings))


def given(pairs: Iterable[tuple[str, str]], app: App) -> tuple[tuple[str, Scalar], ...]:
    """Return keys as an operator wrote them with their values, of the types that `app` declares.

    Raises AgentError ``run.config`` for a key that it does not declare, or another type.
    """
    declared, found = dict(app.config), {}
    for key, value in pairs:
        keys = _declared((_plain(key),), declared)
        if not keys:
            known = ", ".join(declared) or "nothing"
            raise AgentError(
                "run.config", f"{app.name} does not declare {key}", f"The app has: {known}"
            )
        found[keys[0]] = _typed(key, value, keys[0], declared[keys[0]])
    return tuple(sorted(found.items()))


def _wanted(settings: Settings) -> Iterator[tuple[str, str, tuple[str, ...], bool]]:
    """Yield each variable that was set, its value, the keys it may have, and whether it sets all.

    What was not set leaves the app's own default: a run of the context and one of the same app by
    hand train alike.
    """
    if settings.num_rounds is not None:
        yield "FL_NUM_ROUNDS", str(settings.num_rounds), ROUNDS, False
    if settings.strategy is not None:
        yield "FL_STRATEGY", settings.strategy, STRATEGY, False
    if "FL_MIN_CLIENTS" in settings.given:
        yield "FL_MIN_CLIENTS", str(settings.min_clients), CLIENTS, True
    for key, value in settings.run_config:
        yield f"FL_CONFIG_{key.upper().replace('-', '_')}", value, (key,), True


def _declared(names: tuple[str, ...], declared: dict[str, Scalar]) -> list[str]:
    found = []
    for name in names:
        found += [key for key in declared if _plain(key) == name]
    return found


def _plain(key: str) -> str:
    return key.lower().replace("_", "-").replace(".", "-")


def _typed(variable: str, text: str, key: str, default: Scalar) -> Scalar:
    """Return `text` as the type of the app's own default."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        switch = BOOLEANS.get(text.lower())
        if switch is not None:
            return switch
    else:
        value = command_line.scalar(text)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and isinstance(default, float):
            return float(value)
        if number and isinstance(value, int):
            return value
    kind = type(default).__name__
    message = f"{variable} sets {key}, which the app declares as {kind} ({default!r})"
    raise AgentError("run.config", message)


def _unread(variable: str, names: tuple[str, ...], app: App) -> Finding:
    keys = ", ".join(key for key, _ in app.config) or "nothing"
    listed = [name for name in names if not name.startswith("strategy-min-")]
    wanted = names[0] if len(names) == 1 else f"none of {', '.join(listed)}"
    said = f"does not declare {wanted}" if len(names) == 1 else f"declares {wanted}"
    waits = " The run still waits for that number of SuperNodes." if names is CLIENTS else ""
    hint = f"The app declares: {keys}.{waits}"
    return warning("run.unread", f"{variable} is set, but {app.name} {said}", hint)
