r"""Text of OpenNebula's context files to names and strings. Pure; nothing is ever sourced.

Facts: ``VirtualMachineContext.cc`` of OpenNebula writes one comment line, then ``KEY='VALUE'`` for
each attribute, a quote in a value as ``'\''`` and nothing else escaped, so a value may span lines.
A context made by hand may have double quotes, taken where a shell would change nothing in them.
``one_env`` (one-apps ``loc-16-gen-env``) is lossy: only its first three lines are dependable.
"""

import re

from flower_agent.model.errors import AgentError

SIZE_LIMIT_BYTES = 4 * 1024 * 1024
COUNT_LIMIT = 10_000

_QUOTED = r"'[^']*+'(?:\\''[^']*+')*+"
_DOUBLE = r'"[^"$`\\]*+"'
_COMMENT = r"#[^\n]*+"
_LINE = re.compile(
    rf"[ \t]*+(?:([A-Za-z0-9_]++)=({_QUOTED}|{_DOUBLE})|{_COMMENT})?[ \t]*+(?:\n|\Z)"
)
_OPENING = re.compile(r"[ \t]*+[A-Za-z0-9_]++='")
_DOUBLE_OPENING = re.compile(r'[ \t]*+[A-Za-z0-9_]++="')
_WHOLE = re.compile(rf"[ \t]*+[A-Za-z0-9_]++=(?:{_QUOTED}|{_DOUBLE})")

_ONE_ENV = re.compile(rb'export (TOKENTXT|VMID|ONEGATE_ENDPOINT)="([!-~]+)"\s*')
_ONE_ENV_LINES = 3


def parse(data: bytes) -> dict[str, str]:
    """Return the variables of a context file; of a name given twice the last, as in a shell.

    Raises AgentError `context.malformed`, which names the line and never a value, or
    `context.too_large`.
    """
    if len(data) > SIZE_LIMIT_BYTES:
        raise AgentError(
            "context.too_large",
            f"the context has {len(data)} bytes, more than {SIZE_LIMIT_BYTES}",
        )
    text = _decode(data)
    variables: dict[str, str] = {}
    position = count = 0
    while position < len(text):
        line = _LINE.match(text, position)
        if line is None:
            raise _diagnose(text, position)
        if line[1] is not None:
            bare = line[2][1:-1]
            variables[line[1]] = bare.replace(r"'\''", "'") if line[2][0] == "'" else bare
            count += 1
            if count > COUNT_LIMIT:
                raise _malformed(text, position, f"more than {COUNT_LIMIT} variables")
        position = line.end()
    return variables


def parse_one_env(data: bytes) -> dict[str, str]:
    """Return those of TOKENTXT, VMID and ONEGATE_ENDPOINT that the head of `one_env` has.

    Everything behind its third line, an empty value and anything unexpected is left out.
    """
    head = data.split(b"\n", _ONE_ENV_LINES)[:_ONE_ENV_LINES]
    found = (_ONE_ENV.fullmatch(line) for line in head)
    return {match[1].decode("ascii"): match[2].decode("ascii") for match in found if match}


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        start = error.start
    else:
        if (position := text.find("\0")) >= 0:
            raise _malformed(text, position, "a NUL byte")
        return text
    # Raised out here, because the caught error carries the whole file.
    before = data[:start].decode("utf-8")
    raise _malformed(before, len(before), "a byte that is not UTF-8")


def _diagnose(text: str, position: int) -> AgentError:
    if whole := _WHOLE.match(text, position):
        return _malformed(text, whole.end(), "text after a closing quote")
    if _OPENING.match(text, position):
        return _malformed(text, position, "a quote without its closing quote")
    if _DOUBLE_OPENING.match(text, position):
        seen = "a double-quoted value with $, ` or \\, or without its end; use single quotes"
        return _malformed(text, position, seen)
    return _malformed(text, position, "text that is not NAME='VALUE'")


def _malformed(text: str, position: int, seen: str) -> AgentError:
    line = text.count("\n", 0, position) + 1
    return AgentError("context.malformed", f"line {line} of the context has {seen}")
