"""Where apps' data comes from, and how Docker is asked to mount it. Pure.

A directory is bound; disks and NFS are mounted by Docker's ``local`` volume driver, so that the
agent needs no right to mount. That driver calls mount(2) with what it is given: it knows no LABEL
and needs the type of a file system (moby, volume/local/local_unix.go; tried with Engine 20.10).
"""

import dataclasses
import enum
import hashlib
import json
import posixpath
import re

from flower_agent.config import flower_versions
from flower_agent.docker.containers import Mount
from flower_agent.model.errors import Finding, counted

STATE = "/var/lib/flower-agent"
DIRECTORY = f"{STATE}/data"
"""What apps read where nothing else is said; the agent makes it."""

SYSTEM = (STATE, "/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/lib/docker", "/var/run")
"""What no directory of data may hold or be in: keys, tokens and sockets lie there."""

TYPES = ("ext4", "xfs", "btrfs", "iso9660", "squashfs", "vfat")
"""Tried in this order on a disk of which neither udev nor the operator says the type."""

_OPTIONS = "ro,nosuid,nodev,noexec"
_NFS = "soft,timeo=50,retrans=2"
"""A hard mount waits for ever for a server that is away, and dockerd with it."""

_KERNEL_NAMES = {"ntfs": "ntfs3"}
_SUFFIX = re.compile(r"(.+?)(?:,(type|vers)=([A-Za-z0-9_.]{1,20}))?", re.ASCII)
_NFS_URL = re.compile(
    r"nfs://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?(/[^\s,]*)", re.ASCII
)
_PLAIN = re.compile(r"[A-Za-z0-9#+\-.:=@_]", re.ASCII)
_LONGEST = 200

_NO_NFS = "Install the NFS client: nfs-common (Debian, Ubuntu) or nfs-utils."
_REFUSALS: tuple[tuple[re.Pattern[str], bool | None, str, str, str], ...] = (
    (re.compile("source path does not exist"), None, "data.missing", ", which is not there", ""),
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
        ", and there is no such disk",
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
        None,
        "data.filesystem",
        ", and this kernel knows no {kind}",
        "",
    ),
    (
        re.compile("invalid argument$"),
        False,
        "data.filesystem",
        ", which holds no {kind} file system",
        "",
    ),
    (
        re.compile("resource busy$"),
        None,
        "data.refused",
        ", which is in use, such as mounted for writing",
        "Set FLOWER_DATA to the directory at which it is mounted.",
    ),
    (re.compile(""), None, "data.refused", ", which cannot be mounted: {last}", ""),
)
"""What Docker's reason holds, whether it is about NFS (None: either), and what it means."""

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


class DataKind(enum.StrEnum):
    """What FLOWER_DATA names."""

    DIRECTORY = "directory"
    LABEL = "LABEL"
    UUID = "UUID"
    DEVICE = "device"
    NFS = "nfs"


@dataclasses.dataclass(frozen=True, slots=True)
class DataSource:
    """FLOWER_DATA taken apart."""

    text: str
    """As it was written, for messages."""

    kind: DataKind
    where: str
    """Path of the directory or of the device; ``:/export`` of an NFS server."""

    host: str = ""
    port: str = ""
    of_type: str = ""
    """Type of the file system, or NFS version, where the operator says it."""


def parse_data_source(text: str) -> DataSource:
    """Return the source that `text` names. Raises ValueError."""
    match = _SUFFIX.fullmatch(text)
    if match is None or not text.isprintable() or len(text) > _LONGEST:
        raise ValueError(_WANT)
    what, key, value = match[1], match[2] or "", match[3] or ""
    if what.startswith("nfs://"):
        return _nfs(text, what, key, value)
    name, equals, rest = what.partition("=")
    if equals and name.upper() in ("LABEL", "UUID") and rest and key != "vers":
        kind = DataKind(name.upper())
        place = f"/dev/disk/by-{name.lower()}/{encoded(rest)}"
        return DataSource(text, kind, place, of_type=value)
    if what.startswith("/dev/") and _is_path(what) and key != "vers":
        return DataSource(text, DataKind.DEVICE, what, of_type=value)
    path = what.rstrip("/") or "/"
    if key or not _is_path(path) or _is_system(path):
        raise ValueError(_WANT)
    return DataSource(text, DataKind.DIRECTORY, path)


_WANT = (
    "want a directory (none of the system's), LABEL=…, UUID=…, /dev/… or "
    "nfs://HOST/EXPORT; a disk's file system may follow as ,type=ext4"
)


def encoded(label: str) -> str:
    r"""Return a label as udev names its link: what is not plain stands as ``\x20``."""
    return "".join(
        c if _PLAIN.match(c) or not c.isascii() else "".join(f"\\x{b:02x}" for b in c.encode())
        for c in label
    )


def mounts(
    source: DataSource, owner: str, known_type: str, *, propagation: str
) -> tuple[Mount, ...]:
    """Return the mounts to try, the likeliest first; all but a disk of unknown type have one.

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
            said = words.format(host=source.host, kind=kind, last=last[-_LONGEST:])
            more = _NO_NFS if kind == "nfs" and code == "data.filesystem" else hint
            return Finding(code, f"FLOWER_DATA is {source.text}{said}", more)
    raise AssertionError("the last row fits everything")


def is_meant(source: DataSource, reason: str) -> bool:
    """Tell whether Docker's `reason` not to start a container is about the data."""
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
            message = f"{named}, and Flower's user {flower_versions.UID} may read nothing in it"
            return "", Finding("data.unreadable", message)
        entries = counted(seen, "entry", "entries")
        count = f"{'at least ' * (seen == LOOKED)}{entries}" if seen else "empty"
        return count + (f", {closed} of them unreadable" if closed else ""), None
    if said.startswith("refused") and "directory" in said:
        return "", Finding("data.refused", f"{named}, which is no directory")
    message = f"{named}, and Flower's user {flower_versions.UID} may not read it"
    return "", Finding("data.unreadable", message)


def closed_by_mode(mode: int, uid: int, gid: int) -> bool:
    """Tell whether a directory's mode keeps Flower's user out."""
    shift = 6 if uid == flower_versions.UID else 3 if gid == flower_versions.UID else 0
    return (mode >> shift) & 0o5 != 0o5  # noqa: PLR2004  # r-x


def _nfs(text: str, url: str, key: str, value: str) -> DataSource:
    match = _NFS_URL.fullmatch(url)
    if match is None or key == "type":
        raise ValueError(_WANT)
    return DataSource(
        text, DataKind.NFS, f":{match[3]}", match[1].strip("[]"), match[2] or "", value
    )


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


def _is_path(text: str) -> bool:
    plain = text.startswith("/") and posixpath.normpath(text) == text and not text.startswith("//")
    return plain and not re.search("[:,]", text)


def _is_system(path: str) -> bool:
    """Tell whether apps would read the system's or the agent's own files there."""
    if _holds(DIRECTORY, path):
        return False
    return path == "/" or any(_holds(path, kept) or _holds(kept, path) for kept in SYSTEM)


def _holds(outer: str, inner: str) -> bool:
    return f"{inner}/".startswith(f"{outer}/")
