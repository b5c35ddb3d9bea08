"""Copies of the SuperLink's database, made before another Flower version migrates it.

The container must be stopped meanwhile. A copy is whole or absent: it is made beside its place and
renamed. Its files belong to the agent and, through their group, to Flower; no capability is needed.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from . import files
from .containers import FLOWER_UID
from .errors import AgentError

ROOM_BYTES = 64 << 20
"""Left free beside a copy, for the migration itself."""


class Database:
    """The SuperLink's directory and the copies of it, one for each version."""

    def __init__(
        self, path: pathlib.Path, copies: pathlib.Path, *, room_bytes: int = ROOM_BYTES
    ) -> None:
        self._path = path
        self._copies = copies
        self._room_bytes = room_bytes

    def copied(self, version: str) -> bool:
        """Tell whether there is a copy of what `version` worked with."""
        return self._copy_of(version).is_dir()

    def check_room(self) -> None:
        """Raise AgentError ``state.unwritable`` where a copy would not fit."""
        if not self._path.is_dir():
            return
        with _writing(self._copies):
            size = sum(p.stat().st_size for p in self._path.rglob("*") if p.is_file())
            free = shutil.disk_usage(self._path).free
        if free < size + self._room_bytes:
            raise AgentError(
                "state.unwritable",
                f"a copy of {self._path} wants {size >> 20} MiB, and {free >> 20} MiB are free",
                retryable=True,
            )

    def copy(self, version: str) -> None:
        """Copy the directory. Raises AgentError ``state.unwritable`` and leaves nothing then."""
        target = self._copy_of(version)
        begun = target.with_name(f".{target.name}.new")
        files.directory(self._copies, 0o700)
        with _writing(target):
            shutil.rmtree(begun, ignore_errors=True)
            try:
                shutil.copytree(self._path, begun, copy_function=shutil.copyfile)
                _hand_over(begun)
            except BaseException:
                shutil.rmtree(begun, ignore_errors=True)
                raise
            begun.rename(target)

    def restore(self, version: str) -> None:
        """Put the copy back in the directory's place; the copy is gone then."""
        aside = self._copies / ".failed"
        with _writing(self._path):
            shutil.rmtree(aside, ignore_errors=True)
            if self._path.is_dir():
                self._path.rename(aside)
            self._copy_of(version).rename(self._path)
        shutil.rmtree(aside, ignore_errors=True)

    def keep(self, version: str) -> None:
        """Remove all copies but that of `version`."""
        for found in self._copies.glob("*"):
            if found != self._copy_of(version):
                shutil.rmtree(found, ignore_errors=True)

    def _copy_of(self, version: str) -> pathlib.Path:
        return self._copies / f"superlink-{version}"


def _hand_over(top: pathlib.Path) -> None:
    """Let Flower's group write all of it, and wait until it would survive a power cut."""
    for path in (top, *top.rglob("*")):
        os.chown(path, -1, FLOWER_UID)
        path.chmod(0o2770 if path.is_dir() else 0o660)
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except shutil.Error as error:
        raise AgentError(
            "state.unwritable", f"{path} cannot be written: {error.args[0][0][2]}", retryable=True
        ) from error
    except OSError as error:
        raise AgentError(
            "state.unwritable", f"{path} cannot be written: {error.strerror}", retryable=True
        ) from error
