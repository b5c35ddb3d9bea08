"""What FLOWER_STATE_DISK names: a file system by label or UUID, or a block device. Pure."""

import dataclasses
import enum
import posixpath
import re

_LABEL = re.compile(r"[A-Za-z0-9._+:@-]{1,36}", re.ASCII)
_UUID = re.compile(r"[0-9A-Fa-f-]{1,36}", re.ASCII)
_DEVICE = re.compile(r"/dev/[A-Za-z0-9._+:@/-]{1,190}", re.ASCII)
_WANT = "want LABEL=…, UUID=… or a device such as /dev/vdb"


class DiskName(enum.StrEnum):
    """The kinds of FLOWER_STATE_DISK."""

    LABEL = "LABEL"
    UUID = "UUID"
    DEVICE = "device"


@dataclasses.dataclass(frozen=True, slots=True)
class StateDisk:
    """The parts of FLOWER_STATE_DISK."""

    text: str
    """As it was written, for messages and to notice a change."""

    kind: DiskName
    name: str
    """Label, UUID in lower case, or path of the device."""


def parse_state_disk(text: str) -> StateDisk:
    """Return the disk that `text` names. Raises ValueError."""
    word, equals, name = text.partition("=")
    if equals and word.upper() == "LABEL" and _LABEL.fullmatch(name):
        return StateDisk(text, DiskName.LABEL, name)
    if equals and word.upper() == "UUID" and _UUID.fullmatch(name):
        return StateDisk(text, DiskName.UUID, name.lower())
    if _DEVICE.fullmatch(text) and posixpath.normpath(text) == text:
        return StateDisk(text, DiskName.DEVICE, text)
    raise ValueError(_WANT)
