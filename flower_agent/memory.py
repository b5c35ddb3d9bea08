"""Keeps the `record` in ``/var/lib/flower-agent/state.json``."""

import pathlib

import structlog

from . import files, record
from .errors import AgentError
from .record import Record

MAX_BYTES = 1 << 20

log = structlog.get_logger()


class Memory:
    """The record on disk, read once and written when it changes."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._record: Record | None = None
        self._kept: Record | None = None
        self.damaged = False
        """The file could not be read, so what it pinned is not known."""

        self.other_vm = False
        """The record came from another VM: the disk was cloned."""

    def recall(self, vmid: str | None) -> Record:
        """Return what is remembered, as VM `vmid` may use it.

        A damaged file is logged and begun anew: nothing in it is lost for good.
        """
        if self._record is None:
            self._record = self._kept = self._load()
        found, other = record.for_vm(self._record, vmid)
        self.other_vm = self.other_vm or other
        return found

    def keep(self, found: Record) -> None:
        """Write `found` where it differs. Raises AgentError ``state.unwritable``.

        While the disk cannot be written it is remembered all the same, until the agent ends.
        """
        self._record = found
        if found == self._kept:
            return
        files.directory(self._path.parent, 0o755)
        files.write_atomic(self._path, record.dump(found), 0o600)
        self._kept = found

    def _load(self) -> Record:
        try:
            data = files.read(self._path, MAX_BYTES)
            return record.load(data) if data is not None else Record()
        except (AgentError, ValueError, OverflowError, RecursionError) as error:
            self.damaged = True
            log.warning("state.corrupt", path=str(self._path), reason=str(error))
            return Record()
