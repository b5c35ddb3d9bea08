#!/usr/bin/env python3
"""Write ``docs/variables.md`` and ``docs/errors.md`` from the tables that the code runs on.

A test keeps the files equal to this. Needs Python 3.11 and this checkout, no libraries.
"""

import itertools
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from reproduction import REPRODUCTION  # noqa: E402 - found beside this file

from flower_agent.config import names, settings, types  # noqa: E402
from flower_agent.config.types import Role  # noqa: E402
from flower_agent.model.error_codes import CATALOGUE  # noqa: E402

_ROLE_NAMES = {
    Role.SUPERLINK: "SuperLink",
    Role.SUPERNODE: "SuperNode",
    Role.SUPEREXEC: "SuperExec",
}

_WRITTEN = "<!-- Written by `contrib/reference/pages.py`; change {source} instead. -->"

_VARIABLES = """\
# Variables

Variables in the CONTEXT of its template decide the work of a VM. The agent also reads each name
with the prefix `{prefix}`, which Sunstone's groups and OneFlow's inputs use. Different values with
and without the prefix are an error. The agent trims values; an empty value counts as not set.
Words such as `YES` or `superlink` may be in upper or lower case.
{yes} mean yes; {no} mean no.

A value has at most {length} characters. Keys and certificates are PEM or, better, base64 of PEM:
OneFlow damages values with several lines. A VM reads only the variables of its own role, so one
set of inputs can serve all roles of a service. The agent ignores unknown names, and warns if a
name looks like a known one.

Image builders set defaults in `/etc/flower-agent/config.yaml`: one `name: value` per line, with the
name in lower case and without `{prefix}` (`fl_num_rounds: 10`). A value in the CONTEXT overrides a
default. A name that is not in this list is an error.

`flower-agent check` checks both and prints every finding. The codes are in
[errors.md](errors.md).
"""

_ERRORS = """\
# Errors and warnings

Each finding has a code `area.what`, one sentence about the case, and a remedy. The words are the
same in `flower-agent status`, in the journal, in `flower-agent check` and, as `FLOWER_ERROR` and
`FLOWER_WARNING`, at OneGate. New versions add codes and never rename them.

"To see it" is a way to produce the code on a test VM. For "Check a context", write one
`NAME='value'` per line into a file, and run: `flower-agent check --context FILE`. Tests run all of
these, and most cases of [failures.md](failures.md). The other ways were not tried.
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
    return _page(
        "flower_agent/model/error_codes.py and contrib/reference/reproduction.py", _ERRORS, parts
    )


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


def _rank(roles: tuple[Role, ...]) -> tuple[bool, int, list[int]]:
    order = list(Role)
    return len(roles) != len(order), len(roles), [order.index(role) for role in roles]


def _title(roles: tuple[Role, ...]) -> str:
    if len(roles) == len(Role):
        return "Every role"
    return " and ".join(_ROLE_NAMES[role] for role in roles)


def _variable(row: settings.Setting[Any]) -> tuple[str, ...]:
    default = f"`{row.default}`" if row.default else row.unset
    meaning = row.help + (" A secret: never shown." if row.secret else "")
    sample = f"`{row.sample}`" if row.sample else ""
    return f"`{row.name}`", "required" if row.required else default, meaning, sample


def _error(code: str) -> str:
    meaning, remedy = CATALOGUE[code]
    return f"### {code}\n\n{meaning}\n\n* What to do: {remedy}\n* To see it: {REPRODUCTION[code]}\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "".join(f"| {line} |\n" for line in cells)


def main() -> None:
    """Write both pages."""
    docs = REPOSITORY / "docs"
    (docs / "variables.md").write_text(variables(), encoding="utf-8")
    (docs / "errors.md").write_text(errors(), encoding="utf-8")


if __name__ == "__main__":
    main()
