"""From the variables of a run to the keys that an app declares. Pure.

Apps name the same thing differently; the names here are those of Flower's own templates and
examples. What an app does not declare is never sent: newer Flowers refuse it, older ones ignore it.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from flower_agent.config.parsers import BOOLEANS
from flower_agent.config.settings import Settings
from flower_agent.errors import AgentError, Finding, warning
from flower_agent.probes.control import Scalar
from flower_agent.wanted import arguments

from .run_app import App

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
            raise AgentError("run.config", f"{app.name} does not declare {key}", f"It has: {known}")
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
        value = arguments.scalar(text)
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
    waits = " The run waits for so many SuperNodes all the same." if names is CLIENTS else ""
    hint = f"The app declares: {keys}.{waits}"
    return warning("run.unread", f"{variable} is set, but {app.name} {said}", hint)
