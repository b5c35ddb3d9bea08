"""Copies of the SuperLink's database, before another Flower version migrates it.

The container must be stopped meanwhile. A copy is whole or absent: it is made beside its place and
renamed. Its files belong to the agent and, through their group, to Flower; no capability is needed.
"""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile

from flower_agent import files
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.model.errors import StateFileError

ROOM_BYTES = 64 << 20
"""Free space besides the copy, for the migration itself."""


class DatabaseCopy:
    """The SuperLink's directory and the copies of it, ``superlink-OLD+NEW`` each."""

    def __init__(
        self, path: pathlib.Path, copies: pathlib.Path, *, room_bytes: int = ROOM_BYTES
    ) -> None:
        self._path = path
        self._copies = copies
        self._room_bytes = room_bytes

    def copied_for(self, version: str) -> str | None:
        """Return the newer version for which a copy of `version`'s database exists."""
        found = self._copy_of(version)
        return found.name.partition("+")[2] if found else None

    def check_room(self) -> None:
        """Raise AgentError ``state.unwritable`` where a copy would not fit, or not go back."""
        if not self._path.is_dir():
            return
        files.directory(self._copies, 0o700)
        size, free = _size_bytes(self._path), files.room_bytes(self._copies) or 0
        why = ""
        if free < size + self._room_bytes:
            why = f"a copy of {self._path} needs {size >> 20} MiB, and {free >> 20} MiB are free"
        elif self._path.stat().st_dev != self._copies.stat().st_dev:
            why = f"{self._path} is a separate file system: a copy could not replace it"
        if why:
            raise StateFileError("state.unwritable", why, retryable=True)

    def copy(self, version: str, new: str) -> None:
        """Copy the directory. Raises AgentError ``state.unwritable`` and leaves nothing then."""
        target = self._copies / f"superlink-{version}+{new}"
        begun = target.with_name(f".{target.name}.new")
        files.directory(self._copies, 0o700)
        with files.writing(target):
            shutil.rmtree(begun, ignore_errors=True)
            try:
                _copy_tree(self._path, begun)
                _hand_over(begun)
            except BaseException:
                shutil.rmtree(begun, ignore_errors=True)
                raise
            begun.rename(target)
            files.sync(self._copies)

    def restore(self, version: str) -> None:
        """Put the copy back in the directory's place; the copy is gone then."""
        found = self._copy_of(version)
        if found is None:
            raise ValueError(f"there is no copy of {version}")
        with files.writing(self._path):
            if self._path.is_dir():
                self._discard(self._path)
            found.rename(self._path)
            files.sync(self._path.parent)
            files.sync(self._copies)

    def keep(self, version: str) -> None:
        """Remove all copies but that of `version`. Raises AgentError ``state.unwritable``."""
        kept = self._copy_of(version)
        with files.writing(self._copies):
            for found in self._copies.glob("*"):
                if found != kept:
                    self._discard(found)

    def _copy_of(self, version: str) -> pathlib.Path | None:
        return next(self._copies.glob(f"superlink-{version}+*"), None)

    def _discard(self, path: pathlib.Path) -> None:
        """Free a directory's name at once, then remove what was in it.

        What Flower made in directories of its own cannot be removed without capabilities; it stays
        under a name that nothing else wants.
        """
        gone = tempfile.mkdtemp(prefix=".gone-", dir=self._copies)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _size_bytes(top: pathlib.Path) -> int:
    """Return the size of what is below `top`, where Flower makes and removes files meanwhile."""
    size = 0
    for folder, _, names in os.walk(top):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  # of os.walk
    return size


def _copy_tree(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy everything; a link stays a link, because its target may not be Flower's."""
    try:
        shutil.copytree(source, target, symlinks=True, copy_function=shutil.copyfile)
    except shutil.Error as error:
        raise OSError(errno.EIO, error.args[0][0][2]) from error  # the first of many


def _hand_over(top: pathlib.Path) -> None:
    """Let Flower's group write all of it, and wait until it would survive a power cut."""
    for path in (top, *top.rglob("*")):
        os.chown(path, -1, FLOWER_UID, follow_symlinks=False)
        if path.is_symlink():
            continue
        path.chmod(0o770 if path.is_dir() else 0o660)
        files.sync(path)
