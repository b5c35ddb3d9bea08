"""The places that apps write to, and the launcher's files beside them.

The agent has no capability: what Flower's user (49999) makes is not the agent's to read or move, so
it makes the directories above, which its own group shares.
"""

import functools
import json
import os
import pathlib

from flower_agent import files, launcher
from flower_agent.config.settings import Settings
from flower_agent.paths import Paths
from flower_agent.wanted.containers import FLOWER_UID

PROGRAMS = ("program.py", "launcher.py", "trees.py")
SHARE = 4
"""Outputs and caches may each take one part in so many of the disk, where nothing else is set."""

RESERVE_BYTES = 1 << 30
RESERVE_SHARE = 20
RESERVE_INODES = 10_000
RESERVE_INODES_SHARE = 50
"""What apps leave to the SuperLink's database and the system: so much, at most that share."""

_STEP_BYTES = 1 << 20
_SOURCES = pathlib.Path(launcher.__file__).parent
_MAX_BYTES = 1 << 20


def prepare(paths: Paths, settings: Settings) -> None:
    """Make the directories, the programs and their limits; touch nothing that is right already.

    Raises AgentError ``state.unwritable``.
    """
    make = functools.partial(files.directory, durable=False)  # made again where they are missing
    make(paths.runs, 0o710, group=FLOWER_UID)
    # Sticky: what is root's there, apps can neither rename nor remove.
    make(paths.live_runs, 0o1770, group=FLOWER_UID)
    make(paths.live_runs / "ends", 0o1770, group=FLOWER_UID)
    make(paths.caches, 0o770, group=FLOWER_UID)
    make(paths.launcher, 0o755)
    for name in PROGRAMS:
        _keep(paths.launcher / name, (_SOURCES / name).read_bytes())
    _keep(paths.launcher / "limits.json", limits(paths.runs, settings))


def limits(place: pathlib.Path, settings: Settings) -> bytes:
    """Return what apps on the disk of `place` may take, as the launcher reads it."""
    found = os.statvfs(place)
    size = found.f_blocks * found.f_frsize
    share = size // SHARE // _STEP_BYTES * _STEP_BYTES
    document = {
        "outputs_bytes": settings.outputs_limit or share,
        "caches_bytes": settings.cache_limit or share,
        "reserve_bytes": min(RESERVE_BYTES, size // RESERVE_SHARE),
        "reserve_inodes": min(RESERVE_INODES, found.f_files // RESERVE_INODES_SHARE),
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def outputs_limit(paths: Paths, settings: Settings) -> int:
    """Return what the outputs of all runs may take, in bytes."""
    return int(json.loads(limits(paths.runs, settings))["outputs_bytes"])


def _keep(path: pathlib.Path, data: bytes) -> None:
    if files.read(path, _MAX_BYTES) != data:
        files.write_atomic(path, data, 0o644, durable=False)
