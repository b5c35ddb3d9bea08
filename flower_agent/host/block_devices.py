"""The block devices of this machine, through ``lsblk``, ``blkid -p`` and the devices themselves.

udev may not have looked at a disk yet, and a container has none, so the signatures are read from
the disks: ``blkid -p`` ends with 2 where it knows nothing on a disk, and with 8 where it knows too
much. A device that is opened with O_EXCL is not mounted, no swap and in no array, in any mount
namespace: open(2).
"""

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

from flower_agent.host.state_disk import Disk
from flower_agent.model.errors import StateFileError

CALL_S = 30
FORMAT_S = 600
ENDS_BYTES = 1 << 20
"""Where signatures and tables stand: the first and the last MiB."""

MOST_BYTES = 1 << 20
NOTHING = 2
"""``blkid -p`` found no signature."""

COLUMNS = "PATH,TYPE,SIZE,RO,MOUNTPOINTS"
MAKEFS = "/usr/lib/systemd/systemd-makefs"


def observe_disks() -> tuple[Disk, ...]:
    """Return every block device with what is on it. Raises AgentError ``state.disk_failed``."""
    text = call("lsblk", "--json", "--bytes", "--output", COLUMNS)
    try:
        rows = list(_flat(json.loads(text)["blockdevices"]))
    except (ValueError, TypeError, KeyError) as error:
        raise StateFileError(
            "state.disk_failed", "lsblk answers what makes no sense", retryable=True
        ) from error
    # lsblk shows a disk of two parents twice.
    return tuple({disk.path: disk for disk in rows}.values())


def resolve(name: str) -> str:
    """Return the block device that a name below ``/dev`` leads to; empty if there is none."""
    path = pathlib.Path(name)
    return str(path.resolve()) if path.is_block_device() else ""


def format_disk(path: str, label: str, folder: pathlib.Path) -> None:
    """Make an ext4 file system with `label` on a disk. Raises AgentError ``state.disk_failed``.

    systemd-makefs leaves a disk alone that has a signature. Its label is the name of the device, so
    it gets a link of that name in `folder`: the label is there as soon as the file system is.
    """
    link = folder / label
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    try:
        call(MAKEFS, "ext4", str(link), timeout_s=FORMAT_S)
    finally:
        link.unlink(missing_ok=True)


def mount_disk(uuid: str, place: pathlib.Path) -> None:
    """MountPoint a file system by its UUID. Raises AgentError ``state.disk_failed``."""
    call("mount", "--options", "nodev,nosuid", f"UUID={uuid}", str(place))


def call(*command: str, timeout_s: float = CALL_S) -> str:
    """Run a program of the system to its end. Raises AgentError ``state.disk_failed``."""
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=timeout_s, env=_english()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{command[0]} does not work: {error}"
        raise StateFileError("state.disk_failed", message, retryable=True) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        message = f"{' '.join(command)} ended with {done.returncode}: {said}"
        raise StateFileError("state.disk_failed", message, retryable=True)
    return done.stdout[:MOST_BYTES]


def _english() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def _flat(rows: list[dict[str, Any]]) -> Iterator[Disk]:
    for row in rows:
        children = row.get("children") or []
        yield _disk(row, len(children))
        yield from _flat(children)


def _disk(row: dict[str, Any], children: int) -> Disk:
    path, size_bytes = str(row["path"]), int(row["size"])
    tags = probe_file_system(path) if size_bytes else {}
    known = tags.get("TYPE") or tags.get("PTTYPE", "")
    table = "" if "TYPE" in tags or not known else f"a partition table ({known})"
    return Disk(
        path=path,
        kind=str(row["type"]),
        size_bytes=size_bytes,
        read_only=bool(row["ro"]),
        mounts=tuple(str(place) for place in row["mountpoints"] if place),
        children=children,
        usage=tags.get("USAGE", ""),
        signature=table or known,
        label=tags.get("LABEL", ""),
        uuid=tags.get("UUID", ""),
        busy=_busy(path),
        blank=not tags and _blank(path, size_bytes),
    )


def probe_file_system(path: str) -> dict[str, str]:
    """Return what ``blkid -p`` says of a device; ``TYPE`` is there for each known signature."""
    command = ("blkid", "--probe", "--output", "export", path)
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=CALL_S, env=_english()
        )
    except (OSError, subprocess.TimeoutExpired):
        return {"TYPE": "content that blkid cannot read"}
    if done.returncode == NOTHING:
        return {}
    lines = (line.partition("=") for line in done.stdout[:MOST_BYTES].splitlines())
    tags = {name: value.replace("\\", "") for name, equals, value in lines if equals}
    # Of a partition it also says where it lies.
    tags = {name: value for name, value in tags.items() if not name.startswith("PART_ENTRY_")}
    if done.returncode or (len(tags) > 1 and not {"TYPE", "PTTYPE"} & set(tags)):
        return {"TYPE": "content of several kinds"}
    return tags if len(tags) > 1 else {}  # DEVNAME is always there


def _busy(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(descriptor)
    return False


def _blank(path: str, size_bytes: int) -> bool:
    try:
        with pathlib.Path(path).open("rb") as device:
            ends = device.read(ENDS_BYTES)
            device.seek(max(size_bytes - ENDS_BYTES, 0))
            ends += device.read(ENDS_BYTES)
    except OSError:
        return False
    return bool(ends) and not any(ends)
