"""Looks after what apps wrote, as Flower's user: the agent may not read or move it. One-shot.

Runs in a container without a network that sees ``runs/`` alone. ``archive RUN LIMIT`` takes a run's
working directory out of the reach of containers that run apps, keeps its regular files, and prints
each with size and SHA-256. ``remove RUN`` removes what was kept, ``live RUN`` what it has among the
running ones, ``sweep NAME …`` all among them but these names. Links are never followed, neither a
FIFO nor a device is opened, and trees of any depth and number of files are met.
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
"""Files that are named; more are only counted."""

LISTED_BYTES = 1 << 20
"""Of all names."""

FILES = 200_000
DEPTH = 64
"""What lies deeper, or is more, is not kept."""

BUSY = 75
"""Exit status where a launcher still holds the run."""

_CHUNK = 1 << 20
_NAME = re.compile(r"[0-9]{1,20}|process-[0-9]{1,12}-[0-9]{1,10}", re.ASCII)


def main() -> None:
    """Do what the arguments name."""
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
    """End where a process of the run still holds its directory."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            held = os.open(live, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
        except BlockingIOError:
            sys.exit(BUSY)
        except PermissionError:
            _open_up(live)
        except OSError:
            return  # a link: it is removed as one


def _is_directory(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(os.lstat(path).st_mode)
    return False


def _free(kept: str) -> str:
    """Return where to put a directory, beside what was moved and never listed."""
    if not os.path.lexists(kept):
        return kept
    number = 2
    while os.path.lexists(f"{kept}/attempt-{number}"):
        number += 1
    return f"{kept}/attempt-{number}"


def _settle(kept: str, limit: int) -> dict[str, Any]:
    """Keep the regular files of `kept`, the smallest first where they pass `limit`; list them."""
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
    """Return the regular files below `kept`, and how much else there was, which is removed."""
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
    """Remove what no run is, whoever put it beside the runs."""
    for name in _names(f"{RUNS}/live"):
        if name not in known:
            _remove(f"{RUNS}/live/{name}")


def _remove(path: str) -> None:
    """Remove a tree of this user's, however deep: each directory is first moved to the top.

    Ends with an error where something stays, so that nobody takes it for gone.
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
    """Let this user and its group look into a directory of this user's."""
    if _is_directory(path):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o750)


if __name__ == "__main__":
    main()
