"""How a run and each of its app processes really ended. Pure.

``finished`` means that clients' work went in. What is told at OneGate and in the status file, which
others read, has counts and the class of an exception; the whole words stay with the run.

The file lies where apps can write, so all of it is bounded, and its words are the app's own. Only
the class of an exception is told to others: its text may hold data.
"""

import dataclasses
import json
import math
import re

from flower_agent.flower.control_messages import RunInfo, RunStatus
from flower_agent.runs.rounds import Progress, Round

SERVERAPP = "flwr-serverapp"
CLIENTAPP = "flwr-clientapp"
MAX_BYTES = 8192

RUN = re.compile(r"[0-9]{1,20}|process-[0-9]{1,12}-[0-9]{1,10}", re.ASCII)
"""A run's id, or the name of a process whose run is not known."""

_PROGRAM = re.compile(f"{SERVERAPP}|{CLIENTAPP}")
_TEXT_MAX = 300
_SIGNALS = {
    4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM",
}  # fmt: skip
"""Linux's numbers (signal(7)) of what ends an app; SIGBUS is also a full ``/dev/shm``."""

_ERROR_CLASS = re.compile(r"[A-Za-z_]\w{0,79}", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AppEnd:
    """The begin and the end of one app process."""

    run: str
    """What `RUN` matches."""

    program: str
    """``flwr-serverapp`` or ``flwr-clientapp``."""

    began_at: float
    """Unix seconds."""

    ended_at: float | None = None
    """None while it runs, or if the launcher was killed too."""

    status: int | None = None
    signal: int | None = None
    oom: bool = False
    """The kernel killed it because memory was low."""

    own: bool = False
    """Flower's own code ended it, after it answered."""

    error: str = ""
    """Class of the last exception that it logged or died of."""

    text: str = ""
    """The exception's text; may contain data."""

    reason: str = ""
    """The exceeded limit, as a sentence; empty for none."""

    peak_bytes: int = 0

    @property
    def answered(self) -> bool:
        """Whether its process ended normally for Flower, possibly with an error as the answer."""
        return self.ended_at is not None and self.own and self.signal is None

    @property
    def died(self) -> bool:
        """Whether it certainly ended without an answer."""
        return self.ended_at is not None and not self.answered

    def how(self) -> str:
        """Return the end without data: ``was killed (SIGKILL)``, ``raised ValueError``."""
        if self.reason:
            return "exceeded its limits"
        if self.oom:
            return "was killed: the memory limit was reached"
        if self.signal is not None:
            name = _SIGNALS.get(self.signal, f"signal {self.signal}")
            return f"was killed ({name})"
        if self.error:
            return f"raised {self.error}"
        return f"ended with status {self.status}"

    def short(self) -> str:
        """Return the same for OneGate, where other VMs read it: ``ValueError; run 7``."""
        what = self.how().removeprefix("raised ").replace(": the", " as the")
        return f"{what}; run {self.run}"


def parse(data: bytes) -> AppEnd:
    """Return what one file says. Raises ValueError for anything else."""
    try:
        found = json.loads(data[:MAX_BYTES])
        ended_at, status, signal = found.get("ended_at"), found.get("status"), found.get("signal")
        return AppEnd(
            run=_one_of(RUN, found["run"]),
            program=_one_of(_PROGRAM, found["program"]),
            began_at=_moment(found["began_at"]),
            ended_at=None if ended_at is None else _moment(ended_at),
            status=None if status is None else int(status) & 0xFF,
            signal=None if signal is None else int(signal) & 0x7F,
            oom=found.get("oom") is True,
            own=found.get("own") is True,
            error=_name(found.get("error")),
            text=_line(found.get("text")),
            reason=_line(found.get("reason")),
            peak_bytes=min(max(int(found.get("peak_bytes") or 0), 0), 1 << 62),
        )
    except (
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"no app's end: {error!r}") from error


def last(ends: tuple[AppEnd, ...], run: str, program: str) -> AppEnd | None:
    """Return the newest process of a run's program."""
    mine = (end for end in ends if end.run == run and end.program == program)
    return max(mine, key=lambda end: end.began_at, default=None)


def trouble(ends: tuple[AppEnd, ...]) -> AppEnd | None:
    """Return the newest ClientApp that ended without an answer, or answered with an error.

    A run whose last ClientApp answered well is no trouble, nor is one from before a run that works.
    """
    over = [end for end in ends if end.program == CLIENTAPP and end.ended_at is not None]
    over.sort(key=lambda end: end.ended_at or 0.0)
    lasts = {end.run: end for end in over}
    begins = {end.run: end.began_at for end in sorted(over, key=lambda end: -end.began_at)}
    bad = [end for end in lasts.values() if end.died or end.error]
    well = [begins[run] for run, end in lasts.items() if end not in bad]
    newest = max(bad, key=lambda end: end.ended_at or 0.0, default=None)
    if newest is None or max(well, default=0.0) > (newest.ended_at or 0.0):
        return None
    return newest


def _one_of(pattern: re.Pattern[str], value: str) -> str:
    if pattern.fullmatch(value) is None:
        raise ValueError(f"want {pattern.pattern}")
    return value


def _moment(value: object) -> float:
    """Return plausible Unix seconds: an app may write anything."""
    seconds = float(value) if isinstance(value, int | float) else math.nan
    if not 0 <= seconds < 1 << 33:  # nan compares as false
        raise ValueError(f"{value!r} is no moment")
    return seconds


def _name(value: object) -> str:
    return value if isinstance(value, str) and _ERROR_CLASS.fullmatch(value) else ""


def _line(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(c if c.isprintable() else " " for c in text[:_TEXT_MAX]).strip()


_CLASS = re.compile(
    r"(?:[A-Za-z_]\w{0,79}\.){0,8}"
    r"([A-Za-z_]\w{0,79}?(?:Error|Exception|Interrupt|Exit|Warning))(?::|$)",
    re.ASCII,
)
"""Only names of exceptions: the first word of other text may be data."""

_CAUSE_MAX = 400
UNKNOWN = "its log does not say why"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    end: str
    """``finished``, ``stopped`` or ``failed``."""

    cause: str = ""
    """Why it failed, or how clients failed in a finished run; may contain data."""

    shown: str = ""
    """The same for other VMs, without data."""

    def words(self) -> str:
        """Return ``finished``, ``finished with failures: …``, ``failed: …``, ``stopped``."""
        return words(self.end, self.cause)

    def public(self) -> str:
        """Return the same for other VMs, without data."""
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
    """Return the end of an interrupted run.

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
    """Return whether any client's reply counted."""
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
