"""Whether the disk of FLOWER_STATE_DISK is mounted, formatted or refused. Pure.

A disk is formatted only where nothing can be lost: a whole disk that is named by its device, that
nobody uses, without partitions, without any signature, and with zeros at both ends. Encrypted data
without a header has no signature, hence the zeros. From then on the disk has the label
`LABEL`, and is mounted by its UUID.

The first usable context of a boot decides. A disk that is mounted over the directory of a SuperLink
that runs would hide its CA and database from it.

Format of mounts: proc_pid_mountinfo(5). Signatures: ``blkid -p``, blkid(8).
"""

import dataclasses
import enum
import json

from flower_agent.config.state_disk import DiskName, StateDisk
from flower_agent.model import errors
from flower_agent.model.errors import AgentError, Finding, StateFileError, warning

LABEL = "flower-state"
"""What the agent calls a disk that it formats: a later boot knows it by that."""

TYPES = ("ext4", "xfs")
"""File systems that keep owners and modes, and whose mounts are seen by device number."""

SERVICE = "flower-state.service"

LEAST_BYTES = 64 << 20
"""The CA, a database and one run fit; docs/operating.md says what to choose."""

WHOLE = ("disk", "loop")
"""``lsblk`` TYPE of what may be formatted."""

_FIELDS = 10
"""Least fields of a line of mountinfo."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One block device as ``lsblk`` and ``blkid -p`` see it."""

    path: str
    kind: str
    """``lsblk`` TYPE: disk, part, rom, loop, crypt, lvm."""

    size_bytes: int
    read_only: bool = False
    mounts: tuple[str, ...] = ()
    """Where it is mounted; ``[SWAP]`` for swap."""

    children: int = 0
    """Partitions and what else the kernel made of it."""

    usage: str = ""
    """``blkid`` USAGE: filesystem, raid, crypto, other."""

    signature: str = ""
    """What is on it: a file system, a partition table; empty for nothing that is known."""

    label: str = ""
    uuid: str = ""
    busy: bool = False
    """The kernel does not give it to a second user."""

    blank: bool = False
    """Its first and last MiB are zeros."""


@dataclasses.dataclass(frozen=True, slots=True)
class MountPoint:
    """What is mounted at a place."""

    number: str
    """MAJOR:MINOR of its device."""

    root: str
    """Which directory of the file system is seen; ``/`` unless it is a bind mount."""

    source: str


class DiskOutcome(enum.StrEnum):
    """What the state service did in this boot."""

    OWN = "own"
    """The state is on the VM's own disk, because FLOWER_STATE_DISK was not set."""

    MOUNTED = "mounted"
    MISSING = "missing"
    REFUSED = "refused"
    FAILED = "failed"


CODES = {
    DiskOutcome.MISSING: "state.disk_missing",
    DiskOutcome.REFUSED: "state.disk_refused",
    DiskOutcome.FAILED: "state.disk_failed",
}
"""How the agent reports what is not mounted."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiskResult:
    """What the state service leaves for the agent, in ``/run/flower-agent-state``."""

    outcome: DiskOutcome
    wanted: str = ""
    """FLOWER_STATE_DISK as it was applied; empty for none."""

    device: str = ""
    uuid: str = ""
    number: str = ""
    """MAJOR:MINOR of the mount."""

    beneath: bool = False
    """The directory under the mount has a CA."""

    message: str = ""
    """Why it is not mounted, with its remedy in `hint`."""

    hint: str = ""


class DiskAction(enum.StrEnum):
    """What to do with a disk."""

    OWN = "own"
    """Leave the state on the VM's own disk."""

    KEEP = "keep"
    """Leave the mount that is there."""

    MOUNT = "mount"
    FORMAT = "format"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclasses.dataclass(frozen=True, slots=True)
class DiskDecision:
    """What the state service does next."""

    action: DiskAction
    disk: Disk | None = None
    message: str = ""
    """Why it is not mounted, with its remedy in `hint`."""

    hint: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DisksSeen:
    """What the state service saw before it decides."""

    disks: tuple[Disk, ...] = ()
    named: str = ""
    """The block device that a name below ``/dev`` leads to; empty where there is none."""

    mount: MountPoint | None = None
    """What is mounted at the state directory."""

    before: DiskResult | None = None
    """What was done in this boot already."""

    serving: bool = False
    """A SuperLink runs on the state directory."""


def decide(wanted: StateDisk | None, seen: DisksSeen) -> DiskDecision:
    """Return what to do for a SuperLink's FLOWER_STATE_DISK; None where none is set."""
    before = seen.before
    if before is not None and before.outcome is DiskOutcome.MOUNTED:
        same = wanted is not None and wanted.text == before.wanted
        if seen.mount is not None or not same:
            return DiskDecision(DiskAction.KEEP)  # the agent reports a change
    # The SuperLink of this boot began on the VM's own disk: a mount would hide its CA.
    began = seen.serving if before is None else before.outcome is DiskOutcome.OWN
    if wanted is None or began:
        return DiskDecision(DiskAction.OWN)
    disk = _find(wanted, seen)
    if not isinstance(disk, Disk):
        return disk
    if seen.mount is not None:
        return _mounted_already(wanted, seen.mount, disk)
    return _use(wanted, disk, seen.disks)


def _find(wanted: StateDisk, seen: DisksSeen) -> Disk | DiskDecision:
    if wanted.kind is DiskName.DEVICE:
        found = [disk for disk in seen.disks if disk.path == seen.named]
    elif wanted.kind is DiskName.LABEL:
        found = [disk for disk in seen.disks if disk.label == wanted.name]
    else:
        found = [disk for disk in seen.disks if disk.uuid.lower() == wanted.name]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(disk.path for disk in found)
        return _refused(f"{wanted.text} stands for {names}", "Detach the copy, or name the device.")
    what = "no such disk" if wanted.kind is DiskName.DEVICE else "no file system of that name"
    return DiskDecision(DiskAction.WAIT, None, f"{wanted.text}: {what} on this VM")


def _mounted_already(wanted: StateDisk, mount: MountPoint, disk: Disk) -> DiskDecision:
    """Return what a mount means that somebody else made, such as a line of fstab."""
    if mount.source == disk.path and mount.root == "/":
        return DiskDecision(DiskAction.KEEP, disk)
    message = f"{mount.source} is mounted at the state directory, not {wanted.text}"
    return _refused(message, "Remove the line of /etc/fstab or the mount unit, then reboot.")


def _use(wanted: StateDisk, disk: Disk, disks: tuple[Disk, ...]) -> DiskDecision:
    """Return whether a disk that is there is mounted, formatted or left alone."""
    if disk.mounts:
        return _refused(f"{disk.path} is in use: {', '.join(disk.mounts)}")
    if disk.read_only:
        hint = "Give the SuperLink's VM a persistent image that may be written."
        return _refused(f"{disk.path} is read-only", hint)
    if disk.signature:
        return _use_file_system(wanted, disk, disks)
    if reason := _unfit(disk):
        return _refused(f"{disk.path} {reason}")
    others = [other.path for other in disks if other.label == LABEL]
    if others:
        message = f"{disk.path} is empty, and {others[0]} has the label {LABEL}"
        return _refused(message, f"Set FLOWER_STATE_DISK=LABEL={LABEL}, or detach that disk.")
    return DiskDecision(DiskAction.FORMAT, disk)


def _use_file_system(wanted: StateDisk, disk: Disk, disks: tuple[Disk, ...]) -> DiskDecision:
    what = f"{disk.path} has {disk.signature}" + (f" with label {disk.label}" if disk.label else "")
    if disk.usage != "filesystem" or disk.signature not in TYPES or not disk.uuid:
        return _refused(what)
    # A label or a UUID says which file system is meant; a device may be another one by now.
    if wanted.kind is DiskName.DEVICE and disk.label != LABEL:
        hint = f"If it is the SuperLink's state, set FLOWER_STATE_DISK=UUID={disk.uuid}."
        return _refused(what, hint)
    if disk.busy or disk.children:
        return _refused(f"{disk.path} is in use by the kernel")
    twins = [other.path for other in disks if other.uuid == disk.uuid]
    if len(twins) > 1:
        return _refused(f"{' and '.join(twins)} have the same UUID", "Detach the copy.")
    return DiskDecision(DiskAction.MOUNT, disk)


def _unfit(disk: Disk) -> str:
    """Return why a disk without a signature is not formatted; empty if it is."""
    if disk.kind not in WHOLE:
        return f"is empty, but no whole disk ({disk.kind})"
    if disk.children:
        return "has partitions"
    if disk.busy:
        return "is in use by the kernel"
    if not disk.blank:
        return "holds data of an unknown kind"
    if disk.size_bytes < LEAST_BYTES:
        return f"has {disk.size_bytes >> 20} MiB, want at least {LEAST_BYTES >> 20}"
    return ""


def _refused(message: str, hint: str = "") -> DiskDecision:
    return DiskDecision(DiskAction.REFUSE, None, message, hint)


def waiting(
    wanted: StateDisk | None, result: DiskResult | None, mount: MountPoint | None
) -> AgentError | None:
    """Return why a SuperLink must not use its state directory yet; None if it may."""
    if result is not None and result.outcome is DiskOutcome.MOUNTED:
        if mount is not None and (mount.number, mount.root) == (result.number, "/"):
            return None
        message = f"{result.device} was mounted at the state directory and is not seen there"
        return _missing(message, f"Run: systemctl restart {SERVICE}")
    if wanted is None or (result is not None and result.outcome is DiskOutcome.OWN):
        return None
    if result is None or result.wanted != wanted.text:
        return _missing(f"{SERVICE} has not looked for {wanted.text} yet")
    found = Finding(CODES[result.outcome], result.message, result.hint)
    return errors.of(found, retryable=result.outcome is not DiskOutcome.REFUSED)


def _missing(message: str, hint: str = "") -> StateFileError:
    return StateFileError("state.disk_missing", message, hint, retryable=True)


def warnings(wanted: StateDisk | None, result: DiskResult | None) -> tuple[Finding, ...]:
    """Return what is worth knowing although the SuperLink has its state."""
    if result is None or result.outcome not in (DiskOutcome.MOUNTED, DiskOutcome.OWN):
        return ()
    found = []
    now = wanted.text if wanted else ""
    if now != result.wanted:
        where = result.device or "the VM's own disk"
        message = f"FLOWER_STATE_DISK changed from {result.wanted or 'nothing'} to"
        message += f" {now or 'nothing'}: the state stays on {where} until a reboot"
        found.append(warning("state.disk_changed", message))
    if result.beneath:
        message = f"the directory under the mount of {result.device} has a CA of its own"
        found.append(warning("state.beneath_mount", message))
    return tuple(found)


def top_mount(mountinfo: str, place: str) -> MountPoint | None:
    """Return what is seen at a place: of several mounts there the one on top."""
    rows = [line.split(" ") for line in mountinfo.splitlines()]
    rows = [row for row in rows if len(row) >= _FIELDS and _plain(row[4]) == place and "-" in row]
    # The order of the lines says nothing: a propagated mount may lie beneath an older one.
    parents = {row[1] for row in rows if row[0] != row[1]}
    for row in reversed(rows):
        if row[0] not in parents:
            rest = row[row.index("-") + 1 :]
            return MountPoint(row[2], _plain(row[3]), _plain(rest[1]) if len(rest) > 1 else "")
    return None


def _plain(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def dump_result(result: DiskResult) -> bytes:
    """Return the file's content."""
    return json.dumps({"schema": 1, **dataclasses.asdict(result)}, indent=1).encode() + b"\n"


def load_result(data: bytes) -> DiskResult:
    """Return the result in a file's content. Raises ValueError for anything else."""
    try:
        document = json.loads(data)
    except (RecursionError, UnicodeDecodeError) as error:
        raise ValueError("want JSON") from error
    if not isinstance(document, dict):
        raise ValueError("want an object")  # noqa: TRY004  # what the caller expects
    texts = ("wanted", "device", "uuid", "number", "message", "hint")
    found = {name: document.get(name, "") for name in texts}
    beneath = document.get("beneath") is True
    if not all(isinstance(value, str) for value in found.values()):
        raise ValueError("want texts")
    return DiskResult(outcome=DiskOutcome(str(document.get("outcome"))), beneath=beneath, **found)
