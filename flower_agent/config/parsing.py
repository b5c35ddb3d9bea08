"""Names and strings to `Settings`, or to every finding at once. Pure."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from flower_agent.config import names, validation
from flower_agent.config.settings import SETTINGS, Setting, Settings, row_of
from flower_agent.model.errors import Finding, Severity, warning

_FIELDS: dict[str, Setting[Any]] = {
    field.name: row_of(field) for field in dataclasses.fields(Settings) if field.metadata
}


_ORDER = {row.name: number for number, row in enumerate(SETTINGS)}


_NAMES = tuple(row.name for row in SETTINGS if row.stem is None)


_STEMS = tuple(row.stem for row in SETTINGS if row.stem is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """The result of a context."""

    settings: Settings | None
    """None when a finding is an error."""

    findings: tuple[Finding, ...]
    """Everything wrong or worth knowing, in the order of the table."""


@dataclasses.dataclass(slots=True)
class _Reading:
    """The state while the table is read."""

    context: Mapping[str, str]
    config: Mapping[str, str]
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    given: set[str] = dataclasses.field(default_factory=set)
    bad: set[str] = dataclasses.field(default_factory=set)
    found: list[tuple[str, Finding]] = dataclasses.field(default_factory=list)


def parse(context: Mapping[str, str], config: Mapping[str, str]) -> Parsed:
    """Return the settings of a context over the defaults of ``config.yaml`` (lower-case names)."""
    reading = _Reading(context, config)
    for field, row in _FIELDS.items():
        reading.values[field] = _read(row, reading)
    settings = Settings(**reading.values, given=frozenset(reading.given))
    found = reading.found + validation.check(settings, reading.given, reading.bad)
    findings = [finding for _, finding in sorted(found, key=lambda pair: _ORDER[pair[0]])]
    findings += _other_findings(context, config)
    failed = any(finding.severity is Severity.ERROR for finding in findings)
    return Parsed(None if failed else settings, tuple(findings))


def _read(row: Setting[Any], reading: _Reading) -> Any:
    """Return the field's value, or its fallback if it is invalid, and record the findings."""
    role = reading.values.get("role")
    applies = role is None or role in row.roles
    if row.stem is not None:
        keys = _members(row, row.stem, reading) if applies else []
        read = [(key, _read_one(row, key, reading)) for key in keys]
        return tuple((_key(row, key), value) for key, value in read if value is not None)
    return _read_one(row, row.name, reading) if applies else row.fallback()


def _read_one(row: Setting[Any], name: str, reading: _Reading) -> Any:
    given = names.look_up(name, reading.context, reading.config)
    if isinstance(given, names.SetValue):
        try:
            value = row.read(given.value)
        except ValueError as error:
            given = _invalid(row, given, str(error))
        else:
            reading.given.add(row.name)
            return value
    if given is None and row.required and (row is SETTINGS[0] or reading.values["role"]):
        given = Finding("setting.missing", f"{name} is not set")
    if given is not None:
        reading.bad.add(row.name)
        reading.found.append((row.name, given))
    return row.fallback()


def _invalid(row: Setting[Any], given: names.SetValue, want: str) -> Finding:
    seen = row.seen(given.value, names.shown(given.value))
    hint = "Correct /etc/flower-agent/config.yaml." if given.in_config else ""
    return Finding("setting.invalid", f"{given.source} {seen}: {want}", hint)


def _members(row: Setting[Any], stem: str, reading: _Reading) -> list[str]:
    return names.members(stem, reading.context, reading.config, any_case=row.verbatim)


def _key(row: Setting[Any], name: str) -> str:
    key = name[len(row.stem or "") :]
    return key if row.verbatim else key.lower().replace("_", "-")


def _other_findings(context: Mapping[str, str], config: Mapping[str, str]) -> Iterator[Finding]:
    yield from names.unknown_defaults(config, _NAMES, _STEMS)
    if context.get("REPORT_READY", "").strip():
        message = "REPORT_READY is set: one-context reports READY before Flower works"
        yield warning("context.report_ready", message)
    yield from names.near_misses(context, _NAMES, _STEMS)
