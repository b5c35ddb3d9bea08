"""One gate for text that strangers wrote: its size is bounded and a terminal may have it. Pure.

An app's output, a peer's attribute, the words of git, pip, Docker and a registry may be of any size
and hold anything. Control sequences: ECMA-48; what xterm does with OSC 0 (title) and OSC 52
(clipboard): invisible-island.net/xterm/ctlseqs. Each pattern is linear in the text.
"""

import collections
import re
from collections.abc import Iterable, Iterator

LINE = 8192
"""Characters of a line; what comes behind them is cut off."""

LINES = 10_000
"""Lines of a text: the last ones, which say how it ended."""

FIRST_LINES = 500
FIRST_BYTES = 1 << 16
"""What a program writes when it starts stays, however much an app writes later."""

TOTAL = 4 << 20
"""Bytes or characters of a text: the last ones."""

MESSAGE = 4000
"""Characters of a sentence for an operator."""

CUT = " […]"

_RESET = "\x1b[0m"
_COLOR = (
    r"[34]8;5;\d{1,3}|[34]8;2;\d{1,3};\d{1,3};\d{1,3}"
    r"|0?[0-479]|2[1-479]|3[0-79]|4[0-79]|9[0-7]|10[0-7]"
)
"""Not 5, 6 and 8: text that blinks or is concealed is no colour."""

_CONTROL = re.compile(
    rf"""
    (?P<color> (?:\x1b\[|\x9b) (?:(?:{_COLOR})(?:;(?:{_COLOR})){{0,7}})? m )
    | (?:\x1b\[|\x9b) [0-?]*+ [ -/]*+ [@-~]?          # CSI: cursor, erasure, modes
    | (?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])            # OSC, DCS, SOS, PM, APC: what they carry
      [^\x00-\x08\x0a-\x1f\x7f-\x9f]*+ (?:\x07|\x1b\\|\x9c)
    | \x1b [ -/]*+ [0-~]?                             # all other escapes
    | [\x00-\x08\x0b-\x1f\x7f-\x9f]                   # C0 and C1
    | [\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]  # bidi: they show text in another order
    | [\u2028\u2029\ud800-\udfff]                     # line ends that no log knows; no characters
    """,
    re.VERBOSE,
)
_ANY = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e-\u202e\u2066-\u2069\ud800-\udfff]")
"""A quick look: where this finds nothing, `_CONTROL` does not."""


def printable(text: str, *, limit: int = TOTAL, color: bool = False) -> str:
    """Return the first `limit` characters of `text` without anything that moves a terminal.

    Line ends and tabs stay; with `color`, so do colours, which end with the text.
    """
    short = text[:limit] + (CUT if len(text) > limit else "")
    if _ANY.search(short) is None:
        return short
    painted = False

    def kept(found: re.Match[str]) -> str:
        nonlocal painted
        code = (found["color"] or "").replace("\x9b", "\x1b[")
        if not color or not code:
            return ""
        painted = bool(code.rpartition(";")[2].strip("\x1b[0m"))  # the last one: 0 ends them all
        return code

    clean = _CONTROL.sub(kept, short)
    return clean + _RESET if painted else clean


def message(text: str) -> str:
    """Return foreign words for a sentence: short, in one colour."""
    return printable(text, limit=MESSAGE)


def lines(
    text: str,
    *,
    limit: int = LINE,
    most: int = LINES,
    first: int = 0,
    color: bool = False,
) -> Iterator[str]:
    """Yield the `first` lines of `text` and the last `most`, each `printable`.

    Only a line feed ends a line, as in Docker's logs: other characters that `str.splitlines` takes
    for an end would let an app write lines in another's name.
    """
    if not text:
        return
    *begin, rest = text.removesuffix("\n").split("\n", first)
    for row in (*begin, *rest.rsplit("\n", most)[-most:]):
        yield printable(row, limit=limit, color=color)


def streamed(chunks: Iterable[str], *, limit: int = LINE, color: bool = False) -> Iterator[str]:
    """Yield the lines of a text that comes piece by piece; no more than a line is held."""
    held = ""
    for chunk in chunks:
        first, *more = chunk.split("\n")
        held = (held + first)[: limit + 1]
        for row in more:
            yield printable(held, limit=limit, color=color)
            held = row[: limit + 1]
    if held:
        yield printable(held, limit=limit, color=color)


def bounded(data: bytes | Iterable[bytes], limit: int = TOTAL, *, first: int = 0) -> bytes:
    """Return the `first` bytes of `data` and the last `limit`; of a stream no more is held.

    Where something between them is left out, a line ends.
    """
    begin, last, held, left_out = b"", collections.deque[bytes](), 0, False
    for chunk in (data,) if isinstance(data, bytes) else data:
        room = first - len(begin)
        begin += chunk[:room]
        if rest := chunk[room:]:
            last.append(rest)
            held += len(rest)
        while last and held - len(last[0]) >= limit:
            held -= len(last.popleft())
            left_out = True
    end = b"".join(last)
    gap = b"\n" if begin and (left_out or held > limit) else b""
    return begin + gap + end[max(held - limit, 0) :]


def decoded(data: bytes | Iterable[bytes], limit: int = TOTAL, *, first: int = 0) -> str:
    """Return `bounded` bytes as text."""
    return bounded(data, limit, first=first).decode("utf-8", "replace")
