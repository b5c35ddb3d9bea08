"""Files that are whole or absent: atomic writes, bounded reads, directories and the one lock.

A unit with ``UMask=0077`` makes 0400 of what is opened with 0444, so modes are set explicitly. The
agent has no capabilities: it may hand a file to a group it is in, never to another user.
"""

import contextlib
import fcntl
import os
import pathlib
import stat
import threading
import time
import types
from collections.abc import Iterator
from typing import Self

from flower_agent import process
from flower_agent.model.errors import StateFileError

_LOCK_TRIES = 10
_LOCK_PAUSE_S = 0.02
"""`held` locks for an instant; an agent that starts in that instant must not take it for one."""

_KEEP = -1
"""``chown``: leave this id as it is."""


def write_atomic(
    path: pathlib.Path, data: bytes, mode: int, *, group: int | None = None, durable: bool = True
) -> None:
    """Replace `path` by a file with `data`, `mode` and `group`; readers see the old or the new.

    `durable` waits until it would survive a power cut. On failure the old file stays and nothing
    is left beside it. Raises AgentError ``state.unwritable``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with writing(path):
        try:
            _write(temporary, data, mode, group, durable=durable)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync(path.parent)


def read(path: pathlib.Path, limit_bytes: int) -> bytes | None:
    """Return what `path` holds, None when there is no such file.

    Raises AgentError ``state.corrupt`` when it is larger than `limit_bytes` or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StateFileError(
            "state.corrupt", f"{path} cannot be read: {error.strerror}", retryable=True
        ) from error
    if len(data) > limit_bytes:
        raise StateFileError("state.corrupt", f"{path} is larger than {limit_bytes} bytes")
    return data


def directory(
    path: pathlib.Path, mode: int, *, group: int | None = None, durable: bool = True
) -> None:
    """Make sure that `path` is a directory with `mode` and `group`; missing parents get 0755.

    `durable` waits until a new one would survive a power cut. Touches nothing that is right
    already. Raises AgentError ``state.unwritable``.
    """
    if not path.parent.is_dir():
        directory(path.parent, 0o755)
    with writing(path):
        made = not path.is_dir()
        if made:
            # A thread beside the loop may make the same one; a file in the way stays an error.
            path.mkdir(0o700, exist_ok=True)
        found = path.stat()
        if group is not None and found.st_gid != group:
            os.chown(path, _KEEP, group)
        if made or stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)
        if made and durable:
            sync(path.parent)


def room_bytes(path: pathlib.Path) -> int | None:
    """Return how much can still be written below a directory; None when that cannot be known."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return 0 if found.f_flag & os.ST_RDONLY else found.f_bavail * found.f_frsize


def sync(path: pathlib.Path) -> None:
    """Wait until a file, or the names in a directory, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(path: pathlib.Path) -> None:
    """Remove temporary files that a killed agent left in a directory; for the lock's owner only."""
    with writing(path):
        for left in path.glob(".*.*.*.tmp"):
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Cycle what the disk says into AgentError ``state.unwritable`` about `path`."""
    try:
        yield
    except OSError as error:
        hint = (
            "Run the command as root."
            if isinstance(error, PermissionError) and os.geteuid()
            else ""
        )
        raise StateFileError(
            "state.unwritable", f"{path} cannot be written: {error.strerror}", hint, retryable=True
        ) from error


class FileLock:
    """The lock of `lock`, held until closed or until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go; the file stays, so that no second lock can exist beside it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def lock(path: pathlib.Path) -> FileLock | None:
    """Take the lock and write this process into its file; None when another holds it.

    Nobody else may open the file: everybody who can open a file can lock it. Raises
    AgentError ``state.unwritable``.
    """
    with writing(path):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            if not _take(descriptor):
                os.close(descriptor)
                return None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{process.own()}\n".encode())
        except BaseException:
            os.close(descriptor)
            raise
    return FileLock(descriptor)


def held(path: pathlib.Path) -> bool | None:
    """Return whether a process holds the lock; None where this user may not open its file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return None
    except OSError as error:
        raise StateFileError("state.corrupt", f"{path} cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _write(path: pathlib.Path, data: bytes, mode: int, group: int | None, *, durable: bool) -> None:
    """Write a file that nobody else can read before it has its group and mode."""
    path.unlink(missing_ok=True)  # of a killed process that had this id
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        if group is not None:
            os.fchown(file.fileno(), _KEEP, group)
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _take(descriptor: int) -> bool:
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        else:
            return True
    return False
