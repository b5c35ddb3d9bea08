"""Manages the files of apps as Flower's user: the agent cannot read or move them. One-shot.

Runs in a container without a network that sees only ``runs/``. ``archive RUN LIMIT`` moves a run's
working directory out of reach of containers that run apps, keeps its regular files, and prints
each with size and SHA-256. ``remove RUN`` removes a run's kept files, ``live RUN`` its directory
among the running ones, ``sweep NAME …`` all running ones except these names. It never follows links
or opens a FIFO or device, and handles trees of any depth and number of files.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import sys
from typing import Any

RUNS = "/runs"
LISTED = 2000
"""Most listed files; more are only counted."""

LISTED_BYTES = 1 << 20
"""Most bytes of all listed names."""

FILES = 200_000
DEPTH = 64
"""Deeper directories and more files are not kept."""

BUSY = 75
"""Exit status if a launcher still has the lock of the run."""

_CHUNK = 1 << 20
_NAME = re.compile(r"[0-9]{1,20}|process-[0-9]{1,12}-[0-9]{1,10}", re.ASCII)


def main() -> None:
    """Do the action of the arguments."""
    action, *words = sys.argv[1:]
    if action == "sweep":
        _sweep({*words, "ends", "launches.json", "usage.json"})
        return
    run = words[0]
    if _NAME.fullmatch(run) is None:
        raise SystemExit(f"want a run's id, not {run!r}")
    live, kept = f"{RUNS}/live/{run}", f"{RUNS}/{run}/outputs"
    if action == "archive":
        _hold(live)
        if _is_directory(live) and _is_directory(f"{live}/work"):
            _open_up(live)
            _open_up(f"{live}/work")
            os.rename(f"{live}/work", _free(kept))
        json.dump(_settle(kept, int(words[1])), sys.stdout)
    elif action == "remove":
        _remove(kept)
    else:
        _hold(live)
        _remove(live)


def _hold(live: str) -> None:
    """Lock a run's directory; exit with `BUSY` if a process of the run still has the lock."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            held = os.open(live, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
        except BlockingIOError:
            sys.exit(BUSY)
        except PermissionError:
            _open_up(live)
        except OSError:
            return  # a link: only the link is removed


def _is_directory(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(os.lstat(path).st_mode)
    return False


def _free(kept: str) -> str:
    """Return a free path for a directory, if an earlier archive was interrupted."""
    if not os.path.lexists(kept):
        return kept
    number = 2
    while os.path.lexists(f"{kept}/attempt-{number}"):
        number += 1
    return f"{kept}/attempt-{number}"


def _settle(kept: str, limit: int) -> dict[str, Any]:
    """Keep the regular files of `kept`, the smallest first up to `limit`; list them."""
    found, left_out = _regular(kept)
    total, files, removed = 0, [], 0
    for number, (taken, path, size) in enumerate(sorted(found)):
        if number >= FILES or (limit and total + taken > limit):
            _unlink(path)
            removed += 1
            continue
        total += taken
        files.append((path, size))
    return {
        "files": _rows(kept, sorted(files)),
        "count": len(files),
        "bytes": sum(size for _, size in files),
        "left_out": left_out,
        "over_limit": removed,
    }


def _regular(kept: str) -> tuple[list[tuple[int, str, int]], int]:
    """Return the regular files below `kept`; remove everything else, and return its number."""
    found: list[tuple[int, str, int]] = []
    left_out, left = 0, [(kept, 0)] if _is_directory(kept) else []
    while left:
        place, depth = left.pop()
        _open_up(place)
        for name in _names(place):
            path = f"{place}/{name}"
            with contextlib.suppress(FileNotFoundError):
                seen = os.lstat(path)
                if stat.S_ISREG(seen.st_mode):
                    found.append((max(seen.st_size, seen.st_blocks * 512), path, seen.st_size))
                elif stat.S_ISDIR(seen.st_mode) and depth < DEPTH:
                    left.append((path, depth + 1))
                else:
                    _remove(path)
                    left_out += 1
    return found, left_out


def _rows(kept: str, files: list[tuple[str, int]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    named = 0
    for path, size in files[:LISTED]:
        shown = os.path.relpath(path, kept).encode("utf-8", "surrogateescape")
        named += len(shown)
        if named > LISTED_BYTES:
            break
        name = shown.decode("utf-8", "replace")
        rows.append({"name": name, "bytes": size, "sha256": _digest(path)})
    return rows


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with contextlib.suppress(OSError):
        os.chmod(path, 0o640)
        with open(path, "rb", opener=_opener) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _sweep(known: set[str]) -> None:
    """Remove entries that are not runs."""
    for name in _names(f"{RUNS}/live"):
        if name not in known:
            _remove(f"{RUNS}/live/{name}")


def _remove(path: str) -> None:
    """Remove a tree of this user, of any depth: each directory is first moved to the top.

    Paths therefore stay short. Exits with an error if something remains.
    """
    if _is_directory(path):
        _open_up(path)
        top, number, left = path, 0, [path]
        tried: set[str] = set()
        while left:
            place = left[-1]
            _open_up(place)
            inside = [name for name in _names(place) if _is_directory(f"{place}/{name}")]
            if place != top and not inside:
                _empty(left.pop())
                continue
            if place == top:
                inside = [name for name in inside if name not in tried]
                tried.update(inside)
                if not inside:
                    break
            for name in inside:
                _open_up(f"{place}/{name}")
                if place == top:
                    left.append(f"{place}/{name}")
                else:
                    number += 1
                    moved = f"{top}/.moved-{os.getpid()}-{number}"
                    os.rename(f"{place}/{name}", moved)
                    left.insert(1, moved)
        _empty(top)
    else:
        _unlink(path)
    if os.path.lexists(path):
        raise SystemExit(f"{path} cannot be removed")


def _empty(place: str) -> None:
    """Remove a directory without directories in it."""
    for name in _names(place):
        _unlink(f"{place}/{name}")
    with contextlib.suppress(OSError):
        os.rmdir(place)


def _names(place: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(place)
    return []


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _open_up(path: str) -> None:
    """Give this user and its group access to a directory of this user."""
    if _is_directory(path):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o750)


if __name__ == "__main__":
    main()
