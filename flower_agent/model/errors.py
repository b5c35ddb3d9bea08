"""Numbers of things in messages.

What can go wrong, as values: a code, one sentence about this case, and what to do next.

A test keeps the codes that the source gives and those of the `catalogue` equal.
"""

import dataclasses
import enum

from flower_agent.model import foreign_text
from flower_agent.model.error_codes import CATALOGUE


class Severity(enum.StrEnum):
    """What a finding does: an error stops or fails, a warning is only shown."""

    ERROR = "error"
    WARNING = "warning"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or worth knowing, the same in journal, status, check and OneGate."""

    code: str
    """``area.what``, listed in `CATALOGUE`."""

    message: str
    """One sentence about this case, with the offending thing in it and no secret."""

    hint: str = ""
    """What to do next; empty means the catalogue's remedy."""

    severity: Severity = Severity.ERROR

    def __post_init__(self) -> None:
        # The words of git, pip, Docker or a peer stand in many messages; here all of them pass.
        object.__setattr__(self, "message", foreign_text.message(self.message))
        hint = foreign_text.message(self.hint) or CATALOGUE[self.code][1]
        object.__setattr__(self, "hint", hint)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def warning(code: str, message: str, hint: str = "") -> Finding:
    """Return a finding that never changes the state."""
    return Finding(code, message, hint, Severity.WARNING)


class AgentError(Exception):
    """A failure that the agent understands; edges translate every library's error into one."""

    def __init__(self, code: str, message: str, hint: str = "", *, retryable: bool = False) -> None:
        self.finding = Finding(code, message, hint)
        super().__init__(code, self.finding.message)
        self.retryable = retryable

    def __str__(self) -> str:
        return str(self.finding)


def innermost(error: BaseException) -> str:
    """Return the innermost reason of a failed connection, which says most."""
    text = str(error)
    for known in ("FileNotFoundError", "Connection refused", "Permission denied", "timed out"):
        if known in text:
            return {"FileNotFoundError": "its socket is not there"}.get(known, known.lower())
    return foreign_text.printable(text, limit=200)


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 file`` or ``2 files``; `plural` where an s makes none."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
