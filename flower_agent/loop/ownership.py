"""Who may act: one process for each root, and one for each name, since a name owns containers."""

import contextlib
import pathlib
from collections.abc import Iterator

from flower_agent import files
from flower_agent.errors import AgentError
from flower_agent.paths import Paths


@contextlib.contextmanager
def take(paths: Paths, name: str) -> Iterator[None]:
    """Hold the locks of a root and a name. Raises AgentError ``agent.running``."""
    called = f"with the name {name}" if name else "without a --name"
    with (
        _only(paths.lock, f"with the root {paths.root}"),
        _only(_name_lock(name), called),
    ):
        yield


def _only(path: pathlib.Path, which: str) -> files.Lock:
    """Return the lock that only one process has. Raises AgentError ``agent.running``."""
    files.directory(path.parent, 0o755)
    lock = files.lock(path)
    if lock is None:
        raise AgentError("agent.running", f"another agent runs {which}")
    return lock


def _name_lock(name: str) -> pathlib.Path:
    """Return the machine's lock for a name, the same whatever the root."""
    return Paths(pathlib.Path("/")).runtime / f"name-{name or 'default'}.lock"
