"""What becomes of an attribute between a OneGate request and the VM's USER_TEMPLATE.

Three steps: OneGate puts quotes round the bare values (`escape`), oned reads the result with its
template grammar (`parse`), and each name in it replaces the attributes that had the name (`merge`).
The odd results that agents must avoid come out of these steps; none is a special case here. Facts:
OpenNebula 7.4, src/onegate/onegate-server.rb and src/parsers/template_parser.l; what a real stack
did is in tests/data/onegate-put-cases.json.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto

Value = str | dict[str, str]
"""A text, or a vector attribute's names and texts."""

Attributes = dict[str, Value | list[Value]]
"""A template by name, sorted as oned has it; an attribute that occurs twice is a list."""


class TemplateError(ValueError):
    """The text is no template, so oned refuses it."""


def escape(text: str) -> str:
    """Put quotes round bare values, as OneGate does to every body.

    A `=` opens a quote unless one is open or a quote or bracket follows. The marks that may end a
    value close it, also where none was open: `K="a,b"` becomes `K="a",b"`.
    """
    inside = False

    def mark(found: re.Match[str]) -> str:
        nonlocal inside
        sign, at = found.group(), found.start()
        before, after = text[at - 1], text[at + 1 : at + 2]
        if sign == "=":
            opens = not inside and after not in ("[", '"')
            inside = inside or opens
            return '="' if opens else "="
        if before == '"' or (sign in "[]" and before == "="):
            return sign
        if sign in "]\\\n":
            inside = False
        return '"' + sign

    quoted = re.sub(r"[=,\[\]\\\n]", mark, text).replace("\\n", "\n")
    return quoted + '"' if inside and not quoted.endswith(("]", '"')) else quoted


def parse(text: str) -> list[tuple[str, Value]]:
    """Read a template into names and values, in order; raise TemplateError where oned would."""
    if _UNSENDABLE.search(text):
        raise TemplateError("a character that XML-RPC or the database does not take")
    if text.startswith("<"):
        raise TemplateError("XML templates are not modelled")
    tokens = _Tokens(text)
    attributes: list[tuple[str, Value]] = []
    while tokens.kind is not _Kind.END:
        name = _stored_name(tokens.take(_Kind.VARIABLE))
        if tokens.kind is _Kind.EQUAL_EMPTY:
            tokens.take(_Kind.EQUAL_EMPTY)
            attributes.append((name, ""))
            continue
        tokens.take(_Kind.EQUAL)
        if tokens.kind is _Kind.OPEN:
            attributes.append((name, _vector(tokens)))
        else:
            attributes.append((name, _text(tokens)))
    return attributes


def merge(attributes: Attributes, pairs: Iterable[tuple[str, Value]]) -> Attributes:
    """Return the template after an update: each name given replaces all that stood under it."""
    given: dict[str, list[Value]] = {}
    for name, value in pairs:
        values = given.setdefault(name, [])
        if value != {}:
            values.append(value)
    merged = {name: value for name, value in attributes.items() if name not in given}
    for name, values in given.items():
        if values:
            merged[name] = values[0] if len(values) == 1 else values
    return dict(sorted(merged.items()))


def render(attributes: Attributes) -> str:
    """Return the text that OneGate sends when it writes a whole template back after an erasure."""
    lines = []
    for name, held in attributes.items():
        for value in held if isinstance(held, list) else [held]:
            if isinstance(value, str):
                lines.append(f"{name}={_quote(value)}")
            else:
                inner = ",\n".join(f"  {key}={_quote(text)}" for key, text in value.items())
                lines.append(f"{name}=[\n{inner} ]")
    return "\n".join(lines)


def restricted_name(escaped: str, restricted: frozenset[str]) -> str | None:
    """Return the first name in an escaped text that OneGate protects, spelled as it was sent."""
    for line in escaped.split("\n"):
        name = line.partition("=")[0]
        if name.upper() in restricted:
            return name
    return None


def opens_gate(sent: str) -> bool:
    """Return whether OneFlow takes an update for "ready".

    It looks for a substring, so FLOWER_READY=YES and a text that holds READY=YES pass too.
    """
    return "READY=YES" in sent.replace('"', "").replace(" ", "")


def reads_ready(attributes: Mapping[str, Value | list[Value]]) -> bool:
    """Return whether OneFlow's look at the VM every 30 s finds it ready."""
    held = attributes.get("READY", "")
    first = held[0] if isinstance(held, list) else held
    return isinstance(first, str) and first.strip() == "YES"


class _Kind(Enum):
    SKIP = auto()
    VARIABLE = auto()
    EQUAL = auto()
    EQUAL_EMPTY = auto()
    COMMA = auto()
    OPEN = auto()
    CLOSE = auto()
    FORBIDDEN = auto()
    QUOTED = auto()
    BARE = auto()
    END = auto()


_UNSENDABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")
"""Beyond U+FFFF a real stack answered 500; control characters cannot stand in XML."""

# The scanner has two states: names and signs, and right after a `=` the value. The longest match
# wins, so `"a"\b` is one bare word, quotes and all; what matches nothing is passed over in silence,
# a quote or a backslash too.
_Rules = tuple[tuple["_Kind", re.Pattern[str]], ...]
_NAMES: _Rules = (
    (_Kind.SKIP, re.compile(r"[ \t]*#.*\n")),
    (_Kind.SKIP, re.compile(r"[ \t\n]+")),
    (_Kind.VARIABLE, re.compile(r"[A-Za-z0-9_]+")),
    (_Kind.EQUAL, re.compile(r"[ \t]*=[ \t]*")),
    (_Kind.EQUAL_EMPTY, re.compile(r"[ \t]*=[ \t]*\n")),
    (_Kind.COMMA, re.compile(r"[ \t\n]*,[ \t\n]*")),
    (_Kind.CLOSE, re.compile(r"[ \t\n]*\][ \t\n]*")),
)
_VALUES: _Rules = (
    (_Kind.OPEN, re.compile(r"[ \t]*\[[ \t\n]*")),
    (_Kind.FORBIDDEN, re.compile(r".*\]\]>.*")),
    (_Kind.QUOTED, re.compile(r'"(?:[^"\\]++|\\"?)*"')),
    (_Kind.BARE, re.compile(r"[^=# \t\n,\[\]]+")),
)


class _Tokens:
    """The tokens of a text with one in sight."""

    def __init__(self, text: str) -> None:
        self._rest = _scan(text)
        self.kind, self._lexeme = next(self._rest)

    def take(self, kind: _Kind) -> str:
        """Return the token in sight and go on; raise TemplateError if it is not of `kind`."""
        if self.kind is not kind:
            raise TemplateError(f"{self.kind.name} where {kind.name} is wanted")
        lexeme = self._lexeme
        self.kind, self._lexeme = next(self._rest, (_Kind.END, ""))
        return lexeme


def _scan(text: str) -> Iterator[tuple[_Kind, str]]:
    at, state = 0, _NAMES
    while at < len(text):
        kind, lexeme = _Kind.SKIP, ""
        for candidate, pattern in state:
            found = pattern.match(text, at)
            if found and len(found.group()) > len(lexeme):
                kind, lexeme = candidate, found.group()
        at += len(lexeme) or 1
        if kind is not _Kind.SKIP:
            state = _VALUES if kind is _Kind.EQUAL else _NAMES
            yield kind, lexeme
    yield _Kind.END, ""


def _vector(tokens: _Tokens) -> dict[str, str]:
    inner: dict[str, str] = {}
    tokens.take(_Kind.OPEN)
    while tokens.kind is not _Kind.CLOSE:
        if inner:
            tokens.take(_Kind.COMMA)
        name = tokens.take(_Kind.VARIABLE).upper()
        tokens.take(_Kind.EQUAL)
        inner.setdefault(name, _text(tokens))
    tokens.take(_Kind.CLOSE)
    return dict(sorted(inner.items()))


def _stored_name(name: str) -> str:
    odd = not (name[0].isalpha() or name[0] == "_") or name.startswith("XML")
    return ("ONE_" if odd else "") + name.upper()


def _text(tokens: _Tokens) -> str:
    quoted = tokens.kind is _Kind.QUOTED
    lexeme = tokens.take(_Kind.QUOTED if quoted else _Kind.BARE)
    return (lexeme[1:-1] if quoted else lexeme).replace('\\"', '"').strip(" \t\n\r\v\f")


def _quote(value: str) -> str:
    return '"' + value.replace('"', '\\"') + '"'
