"""The reference pages, rendered from the tables that the code runs on. Pure but for `__main__`.

``python3 -m flower_agent.reference docs`` writes them; a test keeps the files equal to this.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from flower_agent.config import names, settings, types
from flower_agent.model.error_codes import CATALOGUE
from flower_agent.provocations import PROVOCATIONS

_ROLE_NAMES = {
    settings.Role.SUPERLINK: "SuperLink",
    settings.Role.SUPERNODE: "SuperNode",
    settings.Role.SUPEREXEC: "SuperExec",
}

_WRITTEN = "<!-- Written by `python3 -m flower_agent.reference docs`; change {source} instead. -->"

_VARIABLES = """\
# Variables

What a VM becomes is said by variables in the CONTEXT of its template. Each name is also read with
the prefix `{prefix}`, which Sunstone's groups and OneFlow's inputs use; set in both forms to
different values it is an error. Values are trimmed, and an empty value is unset. Upper and lower
case are the same in words such as `YES` or `superlink`.
{yes} mean yes; {no} mean no.

A value has at most {length} characters. Keys and certificates are PEM or, better, base64 of PEM:
OneFlow damages values of several lines. A VM reads only the variables of its own role, so one set
of inputs can serve all roles of a service. Unknown names are ignored; one that looks like a known
one is a warning.

Image builders set defaults in `/etc/flower-agent/config.yaml`, one `name: value` a line with the
name in lower case and without `{prefix}` (`fl_num_rounds: 10`). A value in the CONTEXT wins; a
name that is not in this list is an error.

`flower-agent check` validates both and prints every finding. The codes are in
[errors.md](errors.md).
"""

_ERRORS = """\
# Errors and warnings

Each finding has a code `area.what`, one sentence about the case at hand, and what to do next. They
read the same in `flower-agent status`, in the journal, in `flower-agent check` and, as
`FLOWER_ERROR` and `FLOWER_WARNING`, at OneGate. Codes are added, never renamed.

"To see it" is a way to have a code appear on purpose, on a VM that may be broken. What begins with
"Check a context" is one `NAME='value'` a line in a file: `flower-agent check --context FILE`. The
tests do those, and most of what [failures.md](failures.md) tells; the others were not tried.
"""


def variables() -> str:
    """Return the page on every variable."""
    head = _VARIABLES.format(
        prefix=names.PREFIX,
        length=f"{settings.LENGTH_LIMIT:,}",
        yes=_words(value=True),
        no=_words(value=False),
    )
    return _page("flower_agent/config/settings.py", head, _variable_tables())


def errors() -> str:
    """Return the page on every code."""
    areas = itertools.groupby(sorted(CATALOGUE), key=lambda code: code.partition(".")[0])
    parts = [part for area, codes in areas for part in (f"## {area}\n", *map(_error, codes))]
    return _page("flower_agent/catalogue.py and provocations.py", _ERRORS, parts)


def _page(source: str, head: str, parts: Iterable[str]) -> str:
    return "\n".join([_WRITTEN.format(source=source), "", head, *parts])


def _words(*, value: bool) -> str:
    return ", ".join(
        f"`{word.upper()}`" for word, is_yes in types.BOOLEANS.items() if is_yes is value
    )


def _variable_tables() -> Iterator[str]:
    """Yield a table for each set of roles, the largest set first."""
    sets = sorted({row.roles for row in settings.SETTINGS}, key=_rank)
    for roles in sets:
        rows = [row for row in settings.SETTINGS if row.roles == roles]
        table = _table(("variable", "default", "meaning", "example"), map(_variable, rows))
        yield f"## {_title(roles)}\n\n{table}"


def _rank(roles: tuple[settings.Role, ...]) -> tuple[bool, int, list[int]]:
    order = list(settings.Role)
    return len(roles) != len(order), len(roles), [order.index(role) for role in roles]


def _title(roles: tuple[settings.Role, ...]) -> str:
    if len(roles) == len(settings.Role):
        return "Every role"
    return " and ".join(_ROLE_NAMES[role] for role in roles)


def _variable(row: settings.Setting[Any]) -> tuple[str, ...]:
    default = f"`{row.default}`" if row.default else row.unset
    meaning = row.help + (" A secret: never shown." if row.secret else "")
    sample = f"`{row.sample}`" if row.sample else ""
    return f"`{row.name}`", "required" if row.required else default, meaning, sample


def _error(code: str) -> str:
    meaning, remedy = CATALOGUE[code]
    return f"### {code}\n\n{meaning}\n\n* What to do: {remedy}\n* To see it: {PROVOCATIONS[code]}\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "".join(f"| {line} |\n" for line in cells)


if __name__ == "__main__":
    import pathlib
    import sys

    folder = pathlib.Path(sys.argv[1])
    (folder / "variables.md").write_text(variables(), encoding="utf-8")
    (folder / "errors.md").write_text(errors(), encoding="utf-8")
