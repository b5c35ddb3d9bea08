"""Disks for tests of FLOWER_STATE_DISK: one test at a time has any.

The program looks at every disk of the machine, so that a test would see those of its neighbours.
"""

import contextlib
import fcntl
import pathlib

LOCK = pathlib.Path("/run/lock/flower-agent-tests-state-disk")


@contextlib.contextmanager
def alone():
    """Wait until no other test has a disk, and keep others waiting."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
