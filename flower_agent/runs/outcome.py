"""How a run ended, in truth: Flower calls a run completed though every client failed. Pure.

``finished`` means that clients' work went in. What is told at OneGate and in the status file, which
others read, has counts and the class of an exception; the whole words stay with the run.
"""

import dataclasses
import re

from flower_agent.probes.control import RunInfo, RunStatus

from .app_ends import AppEnd
from .rounds import Progress, Round

_CLASS = re.compile(
    r"(?:[A-Za-z_]\w{0,79}\.){0,8}"
    r"([A-Za-z_]\w{0,79}?(?:Error|Exception|Interrupt|Exit|Warning))(?::|$)",
    re.ASCII,
)
"""Only what is named as exceptions are: the first word of other text may be data."""

_CAUSE_MAX = 400
UNKNOWN = "its log does not say why"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    end: str
    """``finished``, ``stopped`` or ``failed``."""

    cause: str = ""
    """Why it failed, or how clients failed in a run that finished; may hold data."""

    shown: str = ""
    """The same for others to read."""

    def words(self) -> str:
        """Return ``finished``, ``finished with failures: …``, ``failed: …``, ``stopped``."""
        return words(self.end, self.cause)

    def public(self) -> str:
        """Return the same for others to read."""
        return words(self.end, self.shown)


def words(end: str, cause: str) -> str:
    """Return an end and its cause in one line."""
    if not cause:
        return end
    return f"finished with failures: {cause}" if end == "finished" else f"{end}: {cause}"


def of(run: RunInfo, progress: Progress, server: AppEnd | None) -> Outcome | None:
    """Return how a run ended; None while it runs. `server` is its ServerApp's process, if known."""
    if run.status is not RunStatus.FINISHED:
        return None
    if run.sub_status == "stopped":
        return Outcome("stopped")
    if run.sub_status == "completed":
        return _completed(progress)
    if server is not None and server.ended_at is not None and (server.error or not server.answered):
        cause = server.reason or f"{server.error}: {server.text}".strip(" :") or server.how()
        return _failed(cause, server.error or server.how(), progress)
    cause = progress.cause or run.details or UNKNOWN
    return _failed(cause, class_of(cause), progress)


def _failed(cause: str, shown: str, progress: Progress) -> Outcome:
    """Return the end of a run that broke off.

    Where no reply ever counted, the ServerApp trips over a model that nobody trained
    (``KeyError: '0'``): the clients' exception comes first.
    """
    bad = [each for each in progress.rounds if each.failed]
    if not bad or _counted(progress):
        return Outcome("failed", cause, shown)
    first, public = failures(bad[-1]), failures(bad[-1], False)
    return Outcome("failed", f"{first}; then {cause}", f"{public}; then {shown or 'it broke off'}")


def _completed(progress: Progress) -> Outcome:
    """Return the end of a run that Flower calls completed."""
    bad = [each for each in progress.rounds if each.failed]
    if not bad:
        return Outcome("finished")
    end = "finished" if _counted(progress) else "failed"
    return Outcome(end, failures(bad[-1]), failures(bad[-1], False))


def _counted(progress: Progress) -> bool:
    """Return whether any reply of any client went in."""
    return any(count.results for each in progress.rounds for count in each.replies.values())


def failures(each: Round, whole: bool = True) -> str:  # noqa: FBT001, FBT002  # one word more
    """Return ``round 2: 0 of 2 results: ValueError: no column 'age'``; else the class alone."""
    part, count = next((p, n) for p, n in each.replies.items() if n.failures or not n.results)
    which = "" if part == "train" else " of the evaluation"
    cause = each.causes[-1] if each.causes else ""
    why = cause if whole else class_of(cause)
    asked = count.results + count.failures
    said = f"round {each.number}: {count.results} of {asked} results{which}"
    return f"{said}: {why}" if why else said


def class_of(cause: str) -> str:
    """Return the class of the exception that a cause begins with; empty for other words."""
    found = _CLASS.match(cause[:_CAUSE_MAX])
    return found[1] if found else ""
