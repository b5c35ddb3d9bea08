"""What an operator's command leaves in the record: who asked for what, and what became of it."""

import contextlib
import dataclasses
import os
import pwd
import sys
import time
from collections.abc import Iterator

from flower_agent.model.errors import AgentError, ControlRefusedError, Finding
from flower_agent.model.record import Entry, Result
from flower_agent.paths import Paths
from flower_agent.record_file import Record

PATIENCE_S = 5.0
"""The agent or another command writes an entry within milliseconds."""

_PAUSE_S = 0.05


@dataclasses.dataclass(slots=True)
class Noted:
    """The entry of a command that runs; what becomes known meanwhile is put into it."""

    entry: Entry

    def add(self, **more: str) -> None:
        """Add what is known now."""
        self.entry = dataclasses.replace(self.entry, **more)  # type: ignore[arg-type]  # texts alone


def note(paths: Paths, *entries: Entry) -> None:
    """Write entries in the caller's name; where that fails there is a warning and no error."""
    who = f"local:{caller()}"
    kept = Record(paths.audit)
    kept.append(*(dataclasses.replace(entry, who=who) for entry in entries))
    end, found = time.monotonic() + PATIENCE_S, kept.flush()
    while kept.waiting and found is None and time.monotonic() < end:
        time.sleep(_PAUSE_S)
        found = kept.flush()
    if kept.waiting:
        found = found or _busy(paths)
        print(f"warning: {found}\n  fix: {found.hint}", file=sys.stderr)


@contextlib.contextmanager
def attempted(paths: Paths, entry: Entry) -> Iterator[Noted]:
    """Record what the block does: done, refused by the SuperLink, or failed."""
    noted = Noted(entry)
    try:
        yield noted
    except AgentError as error:
        refused = isinstance(error, ControlRefusedError)
        result = Result.REFUSED if refused else Result.FAILED
        note(paths, dataclasses.replace(noted.entry, result=result, message=str(error)))
        raise
    note(paths, noted.entry)


def caller() -> str:
    """Return who runs the command: behind sudo the user who called it."""
    name = os.environ.get("SUDO_USER", "")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _busy(paths: Paths) -> Finding:
    return Finding("record.unwritable", f"another process keeps {paths.audit} to itself")
