"""Opens the files that a run left, for somebody who may read them and nothing else of this VM.

An app chose the names and the tree. So each level is opened by the one above it and never through a
link, only regular files are opened, and depth, number and length of names have limits.
"""

import contextlib
import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator

FILES = 200
"""Most opened files: a message of a Unix socket carries 253 descriptors (unix(7))."""

SEEN = 5000
"""Most entries that are looked at."""

DEPTH = 16
NAME_BYTES = 512

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclasses.dataclass(frozen=True, slots=True)
class OutputFile:
    """A regular file that is open for reading."""

    name: str
    """Relative to the outputs, with slashes."""

    size: int
    mtime: int
    """Unix seconds."""

    descriptor: int


@dataclasses.dataclass(slots=True)
class _Search:
    """What was found so far, and how much more may be looked at."""

    files: list[OutputFile] = dataclasses.field(default_factory=list)
    left_out: int = 0
    seen: int = 0


@contextlib.contextmanager
def opened(place: pathlib.Path) -> Iterator[tuple[tuple[OutputFile, ...], int]]:
    """Give the files below `place` by name, and how many entries were left out; close them after.

    A directory that is not there has no files.
    """
    search = _Search()
    try:
        with contextlib.suppress(OSError):
            _walk(search, os.open(place, _DIRECTORY), "", 0)
        yield tuple(search.files), search.left_out
    finally:
        for found in search.files:
            os.close(found.descriptor)


def _walk(search: _Search, directory: int, prefix: str, depth: int) -> None:
    """Look at an open directory, in the order of names, and close it."""
    try:
        for name in _names(search, directory):
            whole = f"{prefix}{name}"
            if not _speakable(whole):
                search.left_out += 1
                continue
            with contextlib.suppress(OSError):
                mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode) and depth < DEPTH:
                    inner = os.open(name, _DIRECTORY, dir_fd=directory)
                    _walk(search, inner, f"{whole}/", depth + 1)
                    continue
                # A device or FIFO is not even opened: that may change or hang something.
                if stat.S_ISREG(mode) and len(search.files) < FILES:
                    _take(search, os.open(name, _FILE, dir_fd=directory), whole)
                    continue
            search.left_out += 1
    finally:
        os.close(directory)


def _names(search: _Search, directory: int) -> list[str]:
    names = []
    with os.scandir(directory) as entries:
        for entry in entries:
            search.seen += 1
            if search.seen > SEEN:
                search.left_out += 1
                break
            names.append(entry.name)
    return sorted(names)


def _take(search: _Search, descriptor: int, name: str) -> None:
    seen = os.fstat(descriptor)
    if not stat.S_ISREG(seen.st_mode):  # it was another file a moment ago
        os.close(descriptor)
        search.left_out += 1
        return
    search.files.append(OutputFile(name, seen.st_size, int(seen.st_mtime), descriptor))


def _speakable(name: str) -> bool:
    """Return whether a name is short, and text that a terminal and JSON may have."""
    try:
        return len(name.encode()) <= NAME_BYTES and name.isprintable()
    except UnicodeEncodeError:
        return False
