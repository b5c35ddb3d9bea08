"""What udev knows of a block device, read from its data; a unit without devices may read it.

Format: systemd, src/libsystemd/sd-device: ``/run/udev/data/bMAJOR:MINOR``, a property a line.
"""

import os
import pathlib
import re
import stat

DATA = pathlib.Path("/run/udev/data")
_TYPE = re.compile(r"^E:ID_FS_TYPE=([A-Za-z0-9_]{1,20})$", re.MULTILINE)
_LIMIT_BYTES = 1 << 16


def file_system(device: str, data: pathlib.Path = DATA) -> str:
    """Return the type of the file system on a device, by path; empty where udev does not say it."""
    try:
        seen = pathlib.Path(device).stat()
        if not stat.S_ISBLK(seen.st_mode):
            return ""
        number = f"b{os.major(seen.st_rdev)}:{os.minor(seen.st_rdev)}"
        with (data / number).open("rb") as file:
            text = file.read(_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""  # no such device yet, no udev, or a unit that sees neither
    match = _TYPE.search(text)
    return match[1] if match else ""
