"""The source of apps' data, and Docker's mount for it. Pure.

A directory is bound; disks and NFS are mounted by Docker's ``local`` volume driver, so that the
agent needs no right to mount. That driver calls mount(2) with what it is given: it knows no LABEL
and needs the type of a file system (moby, volume/local/local_unix.go; tried with Engine 20.10).
"""

import hashlib
import json
import re

from flower_agent.config import flower_versions
from flower_agent.config.data_source import LONGEST, DataKind, DataSource
from flower_agent.docker.containers import Mount
from flower_agent.model.errors import Finding, counted

TYPES = ("ext4", "xfs", "btrfs", "iso9660", "squashfs", "vfat")
"""The order of tries on a disk of unknown type."""

_OPTIONS = "ro,nosuid,nodev,noexec"
_NFS = "soft,timeo=50,retrans=2"
"""A hard mount waits forever for a silent server, and dockerd with it."""

_KERNEL_NAMES = {"ntfs": "ntfs3"}

_REFUSALS: tuple[tuple[re.Pattern[str], bool | None, str, str, str], ...] = (
    (re.compile("source path does not exist"), None, "data.missing", ", which does not exist", ""),
    (
        re.compile("no such file or directory$"),
        True,
        "data.missing",
        ", which {host} does not export",
        "",
    ),
    (
        re.compile("no such file or directory$"),
        False,
        "data.missing",
        ", and this VM has no such disk",
        "",
    ),
    (
        re.compile(
            "no such host|error resolving|refused$|timed? ?out$|unreachable$|no route|host is down$"
        ),
        True,
        "data.missing",
        ", and {host} does not answer: {last}",
        "",
    ),
    (
        re.compile("no such device$"),
        True,
        "data.filesystem",
        ", and this kernel does not support {kind}",
        "Install the NFS client: nfs-common (Debian, Ubuntu) or nfs-utils.",
    ),
    (
        re.compile("no such device$"),
        False,
        "data.filesystem",
        ", and this kernel does not support {kind}",
        "",
    ),
    (
        re.compile("invalid argument$"),
        False,
        "data.filesystem",
        ", which has no {kind} file system",
        "",
    ),
    (
        re.compile("resource busy$"),
        None,
        "data.refused",
        ", which is in use, such as mounted for writing",
        "Set FLOWER_DATA to the directory where it is mounted.",
    ),
    (re.compile(""), None, "data.refused", ", which cannot be mounted: {last}", ""),
)
"""A pattern of Docker's reason, whether it is about NFS (None: either), and its meaning."""

LOOKED = 1000
"""Entries of the directory that are tried at most."""

PROGRAM = f"""\
import os
try:
    seen = closed = 0
    with os.scandir({flower_versions.DATA!r}) as rows:
        for row in rows:
            if row.name == "lost+found":
                continue
            seen += 1
            more = os.X_OK if row.is_dir() else 0
            closed += not os.access(row.path, os.R_OK | more)
            if seen == {LOOKED}:
                break
    print("data", seen, closed)
except OSError as error:
    print("refused", error.strerror)
"""
"""Tells, as the user of apps, how many entries of the data there are and how many are closed."""


def mounts(
    source: DataSource, owner: str, known_type: str, *, propagation: str
) -> tuple[Mount, ...]:
    """Return the mounts to try, the likeliest first; only a disk of unknown type has several.

    `known_type` is what udev says of the disk, empty where it says nothing.
    """
    if source.kind is DataKind.DIRECTORY:
        return (Mount(source.where, flower_versions.DATA, propagation=propagation),)
    if source.kind is DataKind.NFS:
        return (_volume(owner, "nfs", source.where, _nfs_options(source)),)
    said = source.of_type or known_type
    types = (_KERNEL_NAMES.get(said, said),) if said else TYPES
    return tuple(_volume(owner, kind, source.where, _OPTIONS) for kind in types)


def prefix(owner: str) -> str:
    """Return what the names of an agent's volumes begin with."""
    return f"flower-agent-{owner}-data-"


def refusal(source: DataSource, mount: Mount, reason: str) -> Finding:
    """Return what Docker's `reason` not to mount the data means."""
    last = reason.rpartition(": ")[2].strip() or reason
    kind = dict(mount.volume).get("type", "")
    for pattern, on_network, code, words, hint in _REFUSALS:
        fits = on_network is None or on_network is bool(source.host)
        if fits and pattern.search(reason):
            said = words.format(host=source.host, kind=kind, last=last[-LONGEST:])
            return Finding(code, f"FLOWER_DATA is {source.text}{said}", hint)
    raise AssertionError("the last row fits everything")


def is_meant(source: DataSource, reason: str) -> bool:
    """Return whether Docker's `reason` not to start a container is about the data."""
    if source.kind is DataKind.DIRECTORY:
        return reason.endswith(f"source path does not exist: {source.where}")
    return "mounting volume" in reason and "-data-" in reason


def judge(source: DataSource, said: str) -> tuple[str, Finding | None]:
    """Return what `PROGRAM` saw, for the status, and what is wrong with it."""
    named = f"FLOWER_DATA is {source.text}"
    words = said.split()
    if len(words) == 3 and words[0] == "data":  # noqa: PLR2004  # what PROGRAM prints
        seen, closed = int(words[1]), int(words[2])
        if seen and seen == closed:
            message = f"{named}, and Flower's user {flower_versions.UID} cannot read anything in it"
            return "", Finding("data.unreadable", message)
        entries = counted(seen, "entry", "entries")
        count = f"{'at least ' * (seen == LOOKED)}{entries}" if seen else "empty"
        return count + (f", {closed} of them unreadable" if closed else ""), None
    if said.startswith("refused") and "directory" in said:
        return "", Finding("data.refused", f"{named}, which is not a directory")
    message = f"{named}, and Flower's user {flower_versions.UID} cannot read it"
    return "", Finding("data.unreadable", message)


def closed_by_mode(mode: int, uid: int, gid: int) -> bool:
    """Return whether a directory's mode keeps Flower's user out."""
    shift = 6 if uid == flower_versions.UID else 3 if gid == flower_versions.UID else 0
    return (mode >> shift) & 0o5 != 0o5  # noqa: PLR2004  # r-x


def _nfs_options(source: DataSource) -> str:
    version = source.of_type or "4"
    port = f",port={source.port}" if source.port else ""
    # Version 3 keeps its locks in a daemon of its own, which containers of apps do not need.
    locks = ",nolock" if version.startswith("3") else ""
    return f"addr={source.host},nfsvers={version}{port}{locks},{_NFS},{_OPTIONS}"


def _volume(owner: str, kind: str, device: str, options: str) -> Mount:
    volume = (("device", device), ("o", options), ("type", kind))
    digest = hashlib.sha256(json.dumps(volume).encode()).hexdigest()[:12]
    return Mount(f"{prefix(owner)}{digest}", flower_versions.DATA, volume=volume)
