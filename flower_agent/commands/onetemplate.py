"""OpenNebula's templates as text: its own syntax and JSON, to names and values. Pure.

Syntax: OpenNebula src/parsers/template_parser.l and template_syntax.y. JSON: what ``onetemplate
show -j`` and ``oneflow-template show -j`` print, and what ``oneflow-template create`` takes.
"""

import dataclasses
import enum
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flower_agent.errors import AgentError

SIZE_LIMIT = 4 * 1024 * 1024

_SKIPPED = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+(?:\n|\Z))++")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_EMPTY = re.compile(r"[ \t]*=[ \t]*\r?(?:\n|\Z)")
_EQUAL = re.compile(r"[ \t]*=[ \t]*")
_OPEN = re.compile(r"[ \t]*\[[ \t\r\n]*")
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_CLOSE = re.compile(r"[ \t\r\n]*\]")
_QUOTED = re.compile(r'"((?:\\"|[^"])*)"')
_BARE = re.compile(r"[^=#\s,\[\]]+")
_STRAY = re.compile(r"[^A-Za-z0-9_=,\[\]#\s]++")
"""What OpenNebula's lexer passes over in front of a name, a comma and a bracket."""


class Kind(enum.StrEnum):
    """What a template is of."""

    VM = "vm"
    SERVICE = "service"


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A template with its attributes; names of a VM's are in upper case."""

    kind: Kind
    body: Mapping[str, Any]
    stray: str = ""
    """The first that OpenNebula passes over in silence, such as ``'"' at line 3``."""


def parse(text: str) -> Template:
    """Return what a template says. Raises AgentError ``template.malformed``."""
    if len(text) > SIZE_LIMIT:
        raise _malformed(f"has more than {SIZE_LIMIT} characters")
    if not text.lstrip().startswith(("{", "[")):
        return Template(Kind.VM, *attributes(text))
    try:
        found = json.loads(text)
        body = _unwrapped(found)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _malformed("is JSON, and no object")
    if isinstance(body.get("roles"), list):
        return Template(Kind.SERVICE, body)
    return Template(Kind.VM, {str(name).upper(): value for name, value in body.items()})


def attributes(text: str) -> tuple[dict[str, Any], str]:
    """Return the attributes of OpenNebula's own syntax, and what it passes over first, if any.

    Of a name given twice the last counts, in a vector, which is a mapping, the first. All names
    are in upper case.
    """
    found: dict[str, Any] = {}
    strays: list[int] = []
    position = _skip(text, 0, strays)
    while position < len(text):
        name, position = _take(_NAME.match(text, position), text, position, "a name")
        if empty := _EMPTY.match(text, position):
            found[name.upper()], position = "", empty.end()
        else:
            _, position = _take(_EQUAL.match(text, position), text, position, "'=' behind a name")
            found[name.upper()], position = _value(text, position, strays)
        position = _skip(text, position, strays)
    return found, f"{text[strays[0]]!r} at line {_line(text, strays[0])}" if strays else ""


def _value(text: str, position: int, strays: list[int]) -> tuple[Any, int]:
    opened = _OPEN.match(text, position)
    if opened is None:
        return _string(text, position)
    vector: dict[str, str] = {}
    position = _skip(text, opened.end(), strays)
    while not (closed := _CLOSE.match(text, position)):
        name, position = _take(_NAME.match(text, position), text, position, "a name or ']'")
        _, position = _take(_EQUAL.match(text, position), text, position, "'=' behind a name")
        value, position = _string(text, position)
        vector.setdefault(name.upper(), value)
        behind, position = position, _skip(text, position, strays)
        if not _CLOSE.match(text, position):
            comma = _COMMA.match(text, position)
            _, position = _take(comma, text, behind, "',' or ']' behind a value")
            position = _skip(text, position, strays)
    return vector, closed.end()


def _string(text: str, position: int) -> tuple[str, int]:
    if quoted := _QUOTED.match(text, position):
        return quoted[1].replace('\\"', '"'), quoted.end()
    return _take(_BARE.match(text, position), text, position, "a value")


def _take(match: re.Match[str] | None, text: str, position: int, want: str) -> tuple[str, int]:
    if match is None:
        raise _malformed(f"lacks {want} at line {_line(text, position)}")
    return match[0], match.end()


def _skip(text: str, position: int, strays: list[int]) -> int:
    """Return where the next token is; note the first place that belongs to none."""
    while True:
        match = _SKIPPED.match(text, position)
        position = match.end() if match else position
        stray = _STRAY.match(text, position)
        if stray is None:
            return position
        if not strays:
            strays.append(position)
        position = stray.end()


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _unwrapped(found: Any) -> Any:
    """Return the template inside what the CLI prints around it."""
    for wrap in _wraps(found):
        found = found[wrap]
        if wrap == "BODY" and isinstance(found, str):
            found = json.loads(found)
    return found


def _wraps(found: Any) -> Iterator[str]:
    for names in (("DOCUMENT", "VMTEMPLATE", "VM"), ("TEMPLATE",), ("BODY",)):
        wrap = next((n for n in names if isinstance(found, dict) and n in found), None)
        if wrap is not None:
            yield wrap
            found = found[wrap]


def _malformed(what: str) -> AgentError:
    return AgentError("template.malformed", f"the template {what}")
