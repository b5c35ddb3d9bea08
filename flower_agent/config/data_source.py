"""What FLOWER_DATA names: a directory, a disk or an NFS export. Pure."""

import dataclasses
import enum
import posixpath
import re

STATE = "/var/lib/flower-agent"


DIRECTORY = f"{STATE}/data"
"""What apps read where nothing else is said; the agent makes it."""


SYSTEM = (STATE, "/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/lib/docker", "/var/run")
"""No directory of data may contain these or be in them: they hold keys, tokens and sockets."""


_SUFFIX = re.compile(r"(.+?)(?:,(type|vers)=([A-Za-z0-9_.]{1,20}))?", re.ASCII)


_NFS_URL = re.compile(
    r"nfs://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?(/[^\s,]*)", re.ASCII
)


_PLAIN = re.compile(r"[A-Za-z0-9#+\-.:=@_]", re.ASCII)


LONGEST = 200


class DataKind(enum.StrEnum):
    """The kinds of FLOWER_DATA."""

    DIRECTORY = "directory"
    LABEL = "LABEL"
    UUID = "UUID"
    DEVICE = "device"
    NFS = "nfs"


@dataclasses.dataclass(frozen=True, slots=True)
class DataSource:
    """The parts of FLOWER_DATA."""

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
    if match is None or not text.isprintable() or len(text) > LONGEST:
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


def _nfs(text: str, url: str, key: str, value: str) -> DataSource:
    match = _NFS_URL.fullmatch(url)
    if match is None or key == "type":
        raise ValueError(_WANT)
    return DataSource(
        text, DataKind.NFS, f":{match[3]}", match[1].strip("[]"), match[2] or "", value
    )


def _is_path(text: str) -> bool:
    plain = text.startswith("/") and posixpath.normpath(text) == text and not text.startswith("//")
    return plain and not re.search("[:,]", text)


def _is_system(path: str) -> bool:
    """Return whether apps would read the system's or the agent's own files there."""
    if _holds(DIRECTORY, path):
        return False
    return path == "/" or any(_holds(path, kept) or _holds(kept, path) for kept in SYSTEM)


def _holds(outer: str, inner: str) -> bool:
    return f"{inner}/".startswith(f"{outer}/")
