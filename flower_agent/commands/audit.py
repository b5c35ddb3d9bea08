"""``flower-agent audit``: print the record of who did what, or verify its chain."""

import datetime

from flower_agent import record_file
from flower_agent.model import record
from flower_agent.model.errors import AgentError, counted
from flower_agent.paths import Paths


def show(paths: Paths, since: datetime.datetime | None, *, as_json: bool) -> int:
    """Print the entries, the oldest first; a line that is none is printed as a question mark."""
    with record_file.reading(paths.audit) as (lines, _):
        shown = 0
        for held in lines:
            try:
                line = record.parse(held.data.removesuffix(b"\n"))
            except ValueError as error:
                shown += 1
                if not as_json:
                    print(f"? {held.place} {error}")
                continue
            if since is not None and line.time is not None and line.time < since:
                continue
            shown += 1
            print(held.data.decode("ascii").rstrip() if as_json else record.described(line))
    if not shown and not as_json:
        print("the record has no entries" if since is None else "the record has no entry since")
    return 0


def verify(paths: Paths, known: str) -> int:
    """Follow the chain of hashes, up to its head and past the hash `known` if one is given.

    Raises AgentError ``record.damaged`` that names the first line which is removed, changed or cut.
    """
    with record_file.reading(paths.audit) as (lines, head):
        found = record.walk(lines, head, known)
    if found.fault:
        raise AgentError("record.damaged", found.fault)
    if not found.entries:
        print("the record has no entries")
        return 0
    print(f"{counted(found.entries, 'entry', 'entries')}, none removed, changed or cut")
    print(f"head  {found.head.number}  {found.head.hash}")
    if head is None:
        print("audit.head.json is missing: entries removed from the end would not be seen")
    return 0
