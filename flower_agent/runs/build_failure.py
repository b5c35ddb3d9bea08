"""Why ``flwr build`` refused an app, from what it printed. Pure.

Flower prints by ``rich`` (seen with 1.25 and 1.42): a plain sentence, a box titled Error, or the
frame of a traceback with the exception below it, after the one that caused it where there is one.
The frames hold lines of code and values of variables, which are no cause; an app prints what it
likes beside.
"""

import re

MOST = 400
"""Characters of a cause."""

_LOOKED_AT = 256 * 1024
"""Characters from the end that are looked at: several times what a real traceback has."""

_BOX = re.compile("[\u2500-\u257f]")
_BEGIN, _END = "\u256d", "\u2570"
_BECAUSE = "The above exception was the direct cause of the following exception:"


def cause(said: str, place: str = "") -> str:
    """Return the cause in few words; `place` is the app's directory there, which means nothing.

    Where one exception was raised from another, it is the one that came first.
    """
    plain, boxed = _split(said[-_LOOKED_AT:].replace("\u274c", " ").splitlines())
    if len(plain) > 1 and plain[-1]:
        words = _innermost(plain)
    elif boxed:
        words = " ".join(boxed)[:MOST]
    else:
        words = " ".join(" ".join(plain[0]).split())[-MOST:]
    words = words.replace(f"{place}/", "") if place else words
    plainly = (letter if letter.isprintable() else " " for letter in words)
    return " ".join("".join(plainly).split())[:MOST]


def _split(lines: list[str]) -> tuple[list[list[str]], list[str]]:
    """Return the lines outside of frames, cut where a frame is, and those inside the last frame."""
    plain: list[list[str]] = [[]]
    inside: list[str] = []
    for line in map(str.strip, lines):
        if line.startswith(_BEGIN):
            inside = []
        elif line.startswith(_END):
            if plain[-1] or len(plain) == 1:
                plain.append([])
        elif _BOX.match(line):
            inside.append(_BOX.sub(" ", line).strip())
        elif line:
            plain[-1].append(line)
    return plain, [line for line in inside if line]


def _innermost(plain: list[list[str]]) -> str:
    """Return the last exception, or the one before where that was its cause."""
    groups = [" ".join(group) for group in plain]
    at = len(groups) - 1
    while at > 0 and groups[at - 1].endswith(_BECAUSE):
        at -= 1
    return groups[at].removesuffix(_BECAUSE)
