"""Writes the record, ``audit.jsonl``: appended and synced, rotated, and repaired after a crash.

The agent and its commands write the same file, one at a time by a lock. Each reads the end of the
file first, so nobody needs to know what others wrote. ``audit.head.json`` has the number and the
hash of the last entry; without it nobody could see that entries at the end were removed.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import re
import stat
import time
from collections.abc import Callable, Iterator
from typing import IO

from flower_agent import files
from flower_agent.model import record
from flower_agent.model.errors import AgentError, Finding, StateFileError, counted, warning
from flower_agent.model.record import Entry, Event, Head, Held

FILE_BYTES = 10 << 20
"""A larger file is rotated."""

FILE_AGE = datetime.timedelta(days=90)
"""A file whose first entry is older is rotated."""

FILES = 10
"""Rotated files that are kept."""

BATCH = 200
"""Entries of one write: the loop waits for the disk once, and for few bytes."""

MOST_WAITING = 1000
"""Entries that wait in memory while the disk is full; the rest is counted."""

ROOM_BYTES = 1 << 16
"""With less room nothing is begun: the last bytes are for the database and the agent's state."""

RETRY_S = 10.0
BLOCKED_S = 30.0
"""Another process writes an entry within milliseconds."""

TAIL_BYTES = 1 << 17
_TORN_BYTES = 1 << 20
_ROTATED = re.compile(r"audit-([0-9]{12})\.jsonl")
_OPEN = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Record:
    """The record in one directory, for one process that appends to it."""

    def __init__(
        self,
        path: pathlib.Path,
        *,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._path = path
        self._clock = clock
        self._file_bytes = file_bytes
        self._refusals = record.Refusals()
        self._waiting: list[tuple[Entry, datetime.datetime]] = []
        self._lost = 0
        self._retry_at = float("-inf")
        self._blocked_at: float | None = None
        self._finding: Finding | None = None
        self.head: Head | None = None
        """The last entry that this process wrote or saw."""

        self.rotations = 0
        """How often this process rotated the file."""

        self._repairs: list[str] = []
        self.repaired = ""
        """What was wrong with the end of the file when this process repaired it."""

    def append(self, *entries: Entry, now: float | None = None) -> None:
        """Take entries; `flush` writes them. Never fails, and touches no file.

        `now` is monotonic seconds.
        """
        moment = time.monotonic() if now is None else now
        for entry in entries:
            taken = self._refusals.take(entry, moment)
            if taken is not None:
                self._wait(taken)

    def flush(self, now: float | None = None) -> Finding | None:
        """Write the entries that wait, at most `BATCH`; return why they cannot be written.

        They are tried again after `RETRY_S`.
        """
        moment = time.monotonic() if now is None else now
        for entry in self._refusals.due(moment):
            self._wait(entry)
        if not self._waiting and not self._lost:
            return None
        if moment < self._retry_at:
            return self._finding
        try:
            files.directory(self._path.parent, 0o755)
            with files.writing(self._path):
                _require_room(self._path.parent)
            with files.writing(self._path), locked(self._path) as alone:
                if alone:
                    self._write()
        except AgentError as error:
            self._finding = warning("record.unwritable", error.finding.message)
            self._retry_at = moment + RETRY_S
            return self._finding
        self._finding = None if alone else self._blocked(moment)
        return self._finding

    def _blocked(self, now: float) -> Finding | None:
        """Return a finding once another process has kept the record for long."""
        self._blocked_at = now if self._blocked_at is None else self._blocked_at
        if now - self._blocked_at < BLOCKED_S:
            return None
        message = f"another process keeps {self._path} to itself"
        return warning("record.unwritable", message, "End that flower-agent command.")

    @property
    def waiting(self) -> int:
        """Entries that are not written yet."""
        return len(self._waiting)

    def _wait(self, entry: Entry) -> None:
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append((entry, self._clock()))
        else:
            self._lost += entry.count

    def _write(self) -> None:
        """Write the next entries, after the end of the file was repaired."""
        before = self._mend()
        descriptor = os.open(self._path, _OPEN, 0o600)
        try:
            if self._due(descriptor):
                os.close(descriptor)
                descriptor = -1
                self._path.rename(self._aside(before.number))
                files.sync(self._path.parent)
                self.rotations += 1
                descriptor = os.open(self._path, _OPEN, 0o600)
            begun = os.fstat(descriptor).st_size > 0
            gone = () if begun else self._superfluous()
            extra = self._own(before, gone, begun=begun)
            taken = self._waiting[:BATCH]
            data, head = self._lines((*extra, *taken), before)
            _append(descriptor, data)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if not begun:
            files.sync(self._path.parent)
        del self._waiting[: len(taken)]
        self._lost, self.head, self._blocked_at = 0, head, None
        self.repaired, self._repairs = "; ".join(self._repairs) or self.repaired, []
        for path in gone:
            path.unlink(missing_ok=True)
        self._keep_head(head)

    def _lines(
        self, entries: tuple[tuple[Entry, datetime.datetime], ...], head: Head
    ) -> tuple[bytes, Head]:
        rows = []
        for entry, at in entries:
            if entry.once and self._has(entry):
                continue
            row, head = record.render(entry, at, head)
            rows.append(row)
        return b"".join(rows), head

    def _own(
        self, before: Head, gone: tuple[pathlib.Path, ...], *, begun: bool
    ) -> Iterator[tuple[Entry, datetime.datetime]]:
        """Yield the entries about the record itself."""
        at = self._clock()
        if not begun and before.number:
            begins = max((_last_of(path) for path in gone), default=0) + 1
            yield (
                Entry(
                    what=Event.RECORD_ROTATED,
                    message=f"{counted(len(gone), 'old file')} removed",
                    begins=begins if gone else 0,
                ),
                at,
            )
        if self._repairs:
            yield Entry(what=Event.RECORD_RECOVERED, message="; ".join(self._repairs)), at
        if self._lost:
            words = f"{counted(self._lost, 'entry', 'entries')} could not be kept"
            yield Entry(what=Event.RECORD_LOST, message=words, count=self._lost), at

    def _mend(self) -> Head:
        """Return the entry that the next one follows; note what is wrong with the end of the file.

        A line without its end is what a crash leaves: it is kept aside and cut off. Entries that
        were written and are gone leave a gap in the numbers, which `record.walk` finds.
        """
        told, tail = head_of(self._path), _tail(self._path)
        cut = tail.rfind(b"\n") + 1
        torn = tail[cut:]
        if torn:
            self._repair(f"an entry of {len(torn)} bytes without its end is kept in audit.torn.txt")
            self._cut(torn)
        rotated = rotated_files(self._path)
        whole = tail[:cut] or (_tail(rotated[-1]) if rotated else b"")
        found = _newest(whole)
        if whole and found is None:
            self._repair("the last line is no entry")
            return told or record.GENESIS
        found = found or record.GENESIS
        if told is not None and told.number > found.number:
            gone = record.entries_words(found.number + 1, told.number)
            self._repair(f"{gone} removed from the end")
            found = told
        return found

    def _repair(self, words: str) -> None:
        """Note a repair until it is written; a try that fails finds the same again."""
        if words not in self._repairs:
            self._repairs.append(words)

    def _aside(self, number: int) -> pathlib.Path:
        """Return the name of a rotated file; one that is there is never replaced."""
        while (path := self._path.with_name(f"audit-{number:012d}.jsonl")).exists():
            number += 1
        return path

    def _cut(self, torn: bytes) -> None:
        """Keep what stands behind the last line feed in a file of its own."""
        aside = self._path.with_name("audit.torn.txt")
        descriptor = os.open(aside, _OPEN, 0o600)
        try:
            if os.fstat(descriptor).st_size < _TORN_BYTES:
                _append(descriptor, torn.rstrip(b"\0") + b"\n")
        finally:
            os.close(descriptor)
        descriptor = os.open(self._path, _OPEN, 0o600)
        try:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(torn))
        finally:
            os.close(descriptor)

    def _due(self, descriptor: int) -> bool:
        """Return whether the file is too large or too old."""
        if os.fstat(descriptor).st_size >= self._file_bytes:
            return True
        first, _, _ = os.pread(descriptor, record.LINE_MAX, 0).partition(b"\n")
        with contextlib.suppress(ValueError):
            began = record.parse(first).time
            return began is not None and self._clock() - began > FILE_AGE
        return False

    def _superfluous(self) -> tuple[pathlib.Path, ...]:
        """Return the oldest files that are more than are kept."""
        return rotated_files(self._path)[:-FILES]

    def _has(self, entry: Entry) -> bool:
        """Return whether the newest two files have the same event of the same run."""
        sought = record.mark(entry.what, entry.run)
        for path in (self._path, *rotated_files(self._path)[-1:]):
            with contextlib.suppress(FileNotFoundError):
                if sought in path.read_bytes():
                    return True
        return False

    def _keep_head(self, head: Head) -> None:
        data = json.dumps({"seq": head.number, "hash": head.hash}).encode() + b"\n"
        # One entry behind is no harm: what stands behind the head is checked by the chain.
        with contextlib.suppress(AgentError):
            files.write_atomic(self._path.with_suffix(".head.json"), data, 0o600, durable=False)


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[bool]:
    """Keep others from writing the record of `path`; False while another process does."""
    held = files.lock(path.with_suffix(".lock"))
    with held or contextlib.nullcontext():
        yield held is not None


def rotated_files(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Return the files before the present one, the oldest first."""
    try:
        return tuple(sorted(p for p in path.parent.iterdir() if _ROTATED.fullmatch(p.name)))
    except FileNotFoundError:
        return ()


def head_of(path: pathlib.Path) -> Head | None:
    """Return what is written beside the record about its last entry; None if unreadable."""
    try:
        found = json.loads(files.read(path.with_suffix(".head.json"), 4096) or b"")
        return Head(int(found["seq"]), str(found["hash"]))
    except (AgentError, KeyError, TypeError, ValueError, RecursionError):
        return None


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[tuple[Iterator[Held], Head | None]]:
    """Give every line of the record as it is now, the oldest first, and its head.

    The files are opened at once, so that the agent may append and rotate meanwhile. Raises
    AgentError ``state.corrupt``.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as alone:
            with contextlib.suppress(AgentError):  # read-only: nobody writes there
                if path.with_suffix(".lock").exists():
                    alone.enter_context(locked(path))
            opened = []
            for place in (*rotated_files(path), path):
                try:
                    file = stack.enter_context(place.open("rb"))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    hint = "Run the command as root." if isinstance(error, PermissionError) else ""
                    message = f"{place} cannot be read: {error.strerror}"
                    raise StateFileError("state.corrupt", message, hint) from error
                opened.append((place.name, file, os.fstat(file.fileno()).st_size))
            head = head_of(path)
        yield (held for each in opened for held in _lines(*each)), head


def _lines(name: str, file: IO[bytes], size: int) -> Iterator[Held]:
    number = 0
    while size > 0 and (data := file.readline(min(record.LINE_MAX + 1, size))):
        number, size = number + 1, size - len(data)
        yield Held(f"{name} line {number}", data)


def link(path: pathlib.Path, at: pathlib.Path) -> None:
    """Let a link at `at` lead to the record. Raises AgentError ``state.unwritable``."""
    files.directory(at.parent, 0o755)
    with files.writing(at):
        if at.is_symlink() and at.readlink() == path:
            return
        if not at.is_symlink() and at.exists():
            return  # somebody else's file
        made = at.with_name(f".{at.name}.{os.getpid()}.tmp")
        made.unlink(missing_ok=True)
        made.symlink_to(path)
        made.replace(at)


def _newest(data: bytes) -> Head | None:
    """Return the entry in the last whole line; None where it is none."""
    rows = data.removesuffix(b"\n").rsplit(b"\n", 1)
    try:
        found = record.parse(rows[-1])
    except ValueError:
        return None
    return found.head


def _tail(path: pathlib.Path) -> bytes:
    """Return the end of a file; empty where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise OSError(0, "is not a regular file")
        return os.pread(descriptor, TAIL_BYTES, max(seen.st_size - TAIL_BYTES, 0))
    finally:
        os.close(descriptor)


def _append(descriptor: int, data: bytes) -> None:
    """Append all of `data` and wait for the disk, or leave the file as it was."""
    before = os.fstat(descriptor).st_size
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):  # what stays is repaired by the next writer
            os.ftruncate(descriptor, before)
        raise


def _require_room(directory: pathlib.Path) -> None:
    room = files.room_bytes(directory)
    # A read-only file system has no room either; the lock says so in better words.
    if room is not None and room < ROOM_BYTES and os.access(directory, os.W_OK):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_all(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):  # a regular file takes all but on a full disk
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _last_of(path: pathlib.Path) -> int:
    found = _ROTATED.fullmatch(path.name)
    return int(found[1]) if found else 0
