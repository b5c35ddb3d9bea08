"""Which process a number means: the kernel gives a PID again, a start time only once.

``/proc/PID/stat``, proc(5): field 3 is the state, field 22 the start in clock ticks since the boot.
Standard library only, since ``status`` asks.
"""

import dataclasses
import os
import pathlib
import re
import signal

PROC = pathlib.Path("/proc")
_WRITTEN = re.compile(r"([0-9]{1,10}) ([0-9]{1,20})\s*")
_STATE, _START = 0, 19
"""Places behind the name, which is in parentheses and may hold anything."""


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """One process of this boot."""

    pid: int
    started: int
    """Clock ticks since the boot."""

    def __str__(self) -> str:
        return f"{self.pid} {self.started}"


def parse(text: str) -> Process | None:
    """Return the process that `str` wrote; None for anything else."""
    found = _WRITTEN.fullmatch(text)
    return Process(int(found[1]), int(found[2])) if found else None


def own() -> Process:
    """Return this process."""
    return Process(os.getpid(), started(os.getpid()) or 0)


def started(pid: int, proc: pathlib.Path = PROC) -> int | None:
    """Return when the process of that number started; None when there is none that lives.

    Raises PermissionError where ``/proc`` hides other users' processes (``hidepid``).
    """
    try:
        rest = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        _unless_hidden(pid)
        return None
    if len(rest) <= _START or rest[_STATE] in (b"Z", b"X"):
        return None
    return int(rest[_START])


def lives(process: Process, proc: pathlib.Path = PROC) -> bool:
    """Return whether that very process lives. Raises PermissionError as `started`."""
    return started(process.pid, proc) == process.started


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal to that very process; return whether it was there to get it."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The handle means one process for good, so it is looked at after the handle was opened.
        if not lives(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _unless_hidden(pid: int) -> None:
    try:
        os.kill(pid, 0)
    except PermissionError:
        raise
    except (OSError, OverflowError):
        return


OOM_SCORE_ADJ = 500
"""Above that of Flower and of all services: where memory lacks, git goes first."""
