"""Whether the agent may use its state directory: FLOWER_STATE_DISK may have to be mounted first.

flower-state.service mounts the disk, and leaves its result; the mount itself is read from the
kernel, since a result says nothing about a disk that was unmounted since.
"""

from flower_agent import files
from flower_agent.config.settings import Settings
from flower_agent.config.types import Role
from flower_agent.host import machine, state_disk
from flower_agent.host.state_disk import DiskOutcome, DiskResult
from flower_agent.model.errors import AgentError, Finding
from flower_agent.paths import Paths

MAX_BYTES = 1 << 20


class StateMount:
    """The state directory of a SuperLink, on a disk of its own or on the VM's."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self.result: DiskResult | None = None
        """What flower-state.service did, as of the last `check`."""

    @property
    def mounted(self) -> bool:
        """Return whether the state is on a disk of its own, which outlives the VM."""
        return self.result is not None and self.result.outcome is DiskOutcome.MOUNTED

    def check(self, settings: Settings) -> AgentError | None:
        """Return why the state directory must not be used yet; None if it may."""
        self.result = None
        if settings.role is not Role.SUPERLINK:
            return None
        self.result = read_result(self._paths)
        mount = state_disk.top_mount(machine.mountinfo(), str(self._paths.state))
        return state_disk.waiting(settings.state_disk, self.result, mount)

    def findings(self, settings: Settings) -> tuple[Finding, ...]:
        """Return warnings about a state directory that is used."""
        if settings.role is not Role.SUPERLINK:
            return ()
        return state_disk.warnings(settings.state_disk, self.result)

    def words(self) -> str:
        """Return where the state is; empty for the VM's own disk."""
        found = self.result
        return f"on {found.device} (UUID {found.uuid})" if found and self.mounted else ""


def read_result(paths: Paths) -> DiskResult | None:
    """Return what was done in this boot; None where nothing was, or nobody can tell."""
    try:
        data = files.read(paths.state_disk, MAX_BYTES)
        return state_disk.load_result(data) if data is not None else None
    except (AgentError, ValueError):
        return None
