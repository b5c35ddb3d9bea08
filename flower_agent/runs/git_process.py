"""One git: what it may take of this VM, and what it may answer.

A repository of some KB can make git write gigabytes or take them as memory (nested trees, deltas
over a large base). So git's output is read as it comes and only so far, its address space is
limited (setrlimit(2), RLIMIT_AS), and it does not inherit the agent's place before the kernel's OOM
killer (proc(5), oom_score_adj; raising it needs no right).
"""

import contextlib
import dataclasses
import os
import pathlib
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping

MEMORY_BYTES = 768 * 1024 * 1024
OOM_SCORE_ADJ = 500
"""Above that of Flower and of all services: where memory lacks, git goes first."""

SAID_BYTES = 64 * 1024
"""So much of what git complains about is kept: the end, which has the reason."""

LOOK_S = 0.1
_CHUNK_BYTES = 64 * 1024

_LIMITED = """\
ulimit -v "$1" 2>/dev/null
echo "$2" 2>/dev/null >/proc/self/oom_score_adj
shift 2
exec "$@"
"""
"""A constant: what varies are its arguments. Limits that are set from outside, once git runs, come
too late for what it has begun; and Python's own way (preexec_fn) is not safe beside threads."""


class TooMuchError(Exception):
    """Git answered more than it may."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How one git ended."""

    exit_code: int
    """Below zero: the signal that ended it."""

    output: bytes
    said: str
    """The end of its standard error."""


def run(
    command: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    place: pathlib.Path,
    given: bytes,
    limit_bytes: int,
    watch: Callable[[], None],
) -> Ended:
    """Run a program to its end in `place`, with `given` to read.

    `watch` is called now and then. What it raises ends the program, and so does an output of more
    than `limit_bytes` (TooMuchError). Raises OSError where it cannot be started.
    """
    limits = (str(MEMORY_BYTES // 1024), str(OOM_SCORE_ADJ))
    asked = place / "given"
    asked.write_bytes(given)  # a file: a pipe would have to be fed while the answer is read
    with (
        asked.open("rb") as feed,
        subprocess.Popen(
            ["/bin/sh", "-c", _LIMITED, "sh", *limits, *command],
            stdin=feed,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=place,
            start_new_session=True,
        ) as process,
    ):
        try:
            output, said = _read(process, limit_bytes, watch)
        except BaseException:
            _kill(process)
            raise
    return Ended(process.returncode, output, said.decode("utf-8", "replace"))


def _read(
    process: "subprocess.Popen[bytes]", limit_bytes: int, watch: Callable[[], None]
) -> tuple[bytes, bytes]:
    if process.stdout is None or process.stderr is None:
        raise ValueError("want pipes")
    output, said = bytearray(), bytearray()
    into = {process.stdout.fileno(): output, process.stderr.fileno(): said}
    look_at = 0.0
    with selectors.DefaultSelector() as selector:
        for descriptor in into:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(LOOK_S):
                _take(selector, key.fd, into[key.fd])
            if len(output) > limit_bytes:
                raise TooMuchError
            del said[:-SAID_BYTES]
            if time.monotonic() >= look_at:
                watch()
                look_at = time.monotonic() + LOOK_S
    _wait(process, watch)
    return bytes(output), bytes(said)


def _take(selector: selectors.BaseSelector, descriptor: int, into: bytearray) -> None:
    chunk = os.read(descriptor, _CHUNK_BYTES)
    if not chunk:
        selector.unregister(descriptor)
    into += chunk


def _wait(process: "subprocess.Popen[bytes]", watch: Callable[[], None]) -> None:
    """Wait for a program that has closed its output."""
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
        watch()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the program and all that it started, which are one process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
