"""Which string a variable has, and which names look wrong. Pure.

A name stands bare or with ``ONEAPP_`` (Sunstone's groups and OneFlow's inputs) in the context, and
in lower case in ``config.yaml``; the context wins. Empty is unset, since OneFlow sends an empty
string for each input without a value.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from flower_agent.model.errors import Finding, Severity, warning

PREFIX = "ONEAPP_"

_OURS = re.compile(r"(ONEAPP_)?(FLOWER|FL|TLS|GPU|ML|CUSTOM)_")
_NEAR = 2
"""Edits (one character added, dropped or changed) within which two names look alike."""

_TELLING = 10
"""From this length on a known name is recognized even when its first letters are wrong."""

_SHOWN = 60

_EARLIER = {
    "FL_FRAMEWORK": "ML_FRAMEWORK is",
    "FL_TLS_ENABLED": "TLS_ENABLED is",
    "FL_SUPERLINK_ADDRESS": "FLOWER_SERVER_ADDRESS is",
    "FL_NODE_CONFIG": "use FLOWER_NODE_CONFIG, as key=value key2=value2",
    "FL_ISOLATION": "FLOWER_ISOLATION is",
    "FL_LOG_LEVEL": "FLOWER_LOG_LEVEL is",
    "FL_DATABASE": "the database is always in /var/lib/flower-agent/superlink",
    "FL_MAX_RETRIES": "a SuperNode always tries for ever",
    "FL_MAX_WAIT_TIME": "a SuperNode always tries for ever",
}
"""Names of an earlier appliance for Flower (flower-opennebula), each with its replacement."""


@dataclasses.dataclass(frozen=True, slots=True)
class SetValue:
    """A value that somebody set."""

    source: str
    """The name as it was written, for messages."""

    value: str
    """Trimmed, not empty."""

    in_config: bool
    """Comes from ``config.yaml`` and not from the context."""


def look_up(
    name: str, context: Mapping[str, str], config: Mapping[str, str]
) -> SetValue | Finding | None:
    """Return what `name` was given, a finding when it was given twice, None when it was not."""
    bare, prefixed = context.get(name, "").strip(), context.get(PREFIX + name, "").strip()
    if bare and prefixed and bare != prefixed:
        message = f"{name} and {PREFIX}{name} are both set, to different values"
        return Finding("setting.conflict", message)
    if bare or prefixed:
        return SetValue(name if bare else PREFIX + name, bare or prefixed, in_config=False)
    if value := config.get(name.lower(), "").strip():
        return SetValue(f"{name.lower()} in config.yaml", value, in_config=True)
    return None


def members(
    stem: str, context: Mapping[str, str], config: Mapping[str, str], *, any_case: bool = False
) -> list[str]:
    """Return the names that begin with `stem` and have a key behind it, sorted, without prefix.

    With `any_case` a key of the context may have small letters.
    """
    names = {name.removeprefix(PREFIX) for name in context} | {name.upper() for name in config}
    return sorted(name for name in names if is_member(name, stem, any_case=any_case))


def is_member(name: str, stem: str, *, any_case: bool = False) -> bool:
    """Return whether `name` is `stem` with a key behind it."""
    key = name[len(stem) :]
    allowed = re.fullmatch("[A-Z0-9_]{1,64}", key.upper() if any_case else key, re.ASCII)
    return name.startswith(stem) and bool(allowed)


def shown(text: str) -> str:
    """Return `text` for a message: on one line, without control characters, cut when long."""
    cut = text[:_SHOWN] + "…" if len(text) > _SHOWN else text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def unknown_defaults(
    config: Mapping[str, str], known: Iterable[str], stems: Iterable[str]
) -> Iterator[Finding]:
    """Yield a finding for each name in ``config.yaml`` that is not a variable in lower case."""
    names, families = {name.lower() for name in known}, tuple(stems)
    for name in sorted(set(config) - names):
        if name == name.lower() and any(is_member(name.upper(), stem) for stem in families):
            continue
        message = f"config.yaml has {shown(name)}, which is not a variable in lower case"
        yield Finding("config.invalid", message, severity=Severity.ERROR)


def near_misses(
    context: Mapping[str, str], known: Iterable[str], stems: Iterable[str]
) -> Iterator[Finding]:
    """Yield a warning for each unknown name that looks like a known one."""
    names, families = tuple(known), tuple(stems)
    for written in sorted(context):
        name = written.removeprefix(PREFIX)
        known_name = name in names or any(name.startswith(stem) for stem in families)
        if known_name or not context[written].strip():
            continue
        if name in _EARLIER:
            yield warning("setting.near_miss", f"{shown(written)} is not known: {_EARLIER[name]}")
            continue
        if meant := _closest(name, names, any_start=not _OURS.match(name)):
            yield warning("setting.near_miss", f"{shown(written)} is not known: {meant} is")


def _closest(name: str, known: tuple[str, ...], *, any_start: bool) -> str | None:
    best, found = _NEAR + 1, None
    for candidate in known:
        if any_start and len(candidate) < _TELLING:
            continue
        if (edits := _edits(name, candidate)) < best:
            best, found = edits, candidate
    return found


def _edits(left: str, right: str) -> int:
    """Return the edit distance, or more than `_NEAR` as soon as it is that."""
    if abs(len(left) - len(right)) > _NEAR:
        return _NEAR + 1
    row = list(range(len(right) + 1))
    for number, letter in enumerate(left, start=1):
        above, row = row, [number]
        for column, other in enumerate(right, start=1):
            step = above[column - 1] + (letter != other)
            row.append(min(step, above[column] + 1, row[-1] + 1))
        if min(row) > _NEAR:
            return _NEAR + 1
    return row[-1]
