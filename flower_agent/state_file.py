"""Keeps the agent's `State` in ``/var/lib/flower-agent/state.json``."""

import pathlib

import structlog

from flower_agent import files
from flower_agent.model import state
from flower_agent.model.errors import AgentError
from flower_agent.model.state import State

log = structlog.get_logger()

MAX_BYTES = 1 << 20


class StateFile:
    """The state on disk, read once and written when it changes."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._state: State | None = None
        self._kept: State | None = None
        self.damaged = False
        """The file could not be read, so what it pinned is not known."""

        self.other_vm = False
        """The state came from another VM: the disk was cloned."""

    def recall(self, vmid: str | None) -> State:
        """Return what is remembered, as VM `vmid` may use it.

        A damaged file is logged and replaced: all of its content can be observed again.
        """
        if self._state is None:
            self._state = self._kept = self._load()
        found, other = state.for_vm(self._state, vmid)
        self.other_vm = self.other_vm or other
        return found

    def keep(self, found: State) -> None:
        """Write `found` where it differs. Raises AgentError ``state.unwritable``.

        While the disk cannot be written it is remembered all the same, until the agent ends.
        """
        self._state = found
        if found == self._kept:
            return
        files.directory(self._path.parent, 0o755)
        files.write_atomic(self._path, state.dump(found), 0o600)
        self._kept = found

    def _load(self) -> State:
        try:
            data = files.read(self._path, MAX_BYTES)
            return state.load(data) if data is not None else State()
        except (AgentError, ValueError, OverflowError, RecursionError) as error:
            self.damaged = True
            log.warning("state.corrupt", path=str(self._path), reason=str(error))
            return State()
