"""Looks after what apps wrote, as Flower's user: the agent may not read or move it. One-shot.

Runs in a container without a network that sees ``runs/`` alone. ``archive RUN`` takes a run's
working directory out of the reach of containers that run apps, keeps its regular files, and prints
each with size and SHA-256; ``remove RUN`` removes all that a run left, ``live RUN`` what it has
among the running ones. Links are never followed, and neither a FIFO nor a device is ever opened.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
from typing import Any

RUNS = "/runs"
LISTED = 2000
"""Files that are named; more are only counted."""

_CHUNK = 1 << 20


def main() -> None:
    """Do what the arguments name."""
    action, run, *more = sys.argv[1:]
    if not run.replace("-", "").replace("process", "").isdecimal():
        raise SystemExit(f"want a run's id, not {run!r}")
    live, kept = f"{RUNS}/live/{run}", f"{RUNS}/{run}/outputs"
    if action == "archive":
        if _is_directory(live) and _is_directory(f"{live}/work"):
            _open_up(live)
            _open_up(f"{live}/work")
            os.rename(f"{live}/work", _free(kept))
        json.dump(_settle(kept, int(more[0])), sys.stdout)
    elif action == "remove":
        _remove(kept)
    _remove(live)


def _is_directory(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(os.lstat(path).st_mode)
    return False


def _free(kept: str) -> str:
    """Return where to put a directory: a run whose ServerApp began twice has both."""
    if not os.path.exists(kept):
        return kept
    number = 2
    while os.path.exists(f"{kept}/attempt-{number}"):
        number += 1
    return f"{kept}/attempt-{number}"


def _settle(kept: str, limit: int) -> dict[str, Any]:
    """Keep the regular files of `kept`, the smallest first where they pass `limit`; list them."""
    left_out, found = 0, []
    _open_up(kept)
    for place, directories, names in os.walk(kept):
        for path in [f"{place}/{name}" for name in list(directories)]:
            if os.path.islink(path):
                directories.remove(os.path.basename(path))
                os.unlink(path)
                left_out += 1
            else:
                _open_up(path)
        for name in names:
            path = f"{place}/{name}"
            seen = os.lstat(path)
            if not stat.S_ISREG(seen.st_mode):
                os.unlink(path)
                left_out += 1
                continue
            found.append((max(seen.st_size, seen.st_blocks * 512), path, seen.st_size))
    total, files, removed = 0, [], 0
    for taken, path, size in sorted(found):
        if limit and total + taken > limit:
            os.unlink(path)
            removed += 1
            continue
        total += taken
        files.append((path, size))
    rows = [_row(kept, path, size) for path, size in sorted(files)[:LISTED]]
    return {
        "files": rows,
        "count": len(files),
        "bytes": sum(size for _, size in files),
        "left_out": left_out,
        "over_limit": removed,
    }


def _row(kept: str, path: str, size: int) -> dict[str, Any]:
    os.chmod(path, 0o640)
    digest = hashlib.sha256()
    with open(path, "rb", opener=_opener) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    name = os.path.relpath(path, kept)
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return {"name": shown, "bytes": size, "sha256": digest.hexdigest()}


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _remove(path: str) -> None:
    """Remove a tree of this user's, whatever modes its directories have."""
    _open_up(path)
    for place, directories, _ in os.walk(path):
        for name in directories:
            _open_up(f"{place}/{name}")
    shutil.rmtree(path, ignore_errors=True)


def _open_up(path: str) -> None:
    """Let this user and its group look into a directory of this user's."""
    if _is_directory(path):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o750)


if __name__ == "__main__":
    main()
