"""The file with the environment of app processes, and its place in a container's mounts."""

import hashlib
import pathlib

from flower_agent import files
from flower_agent.wanted.containers import FLOWER_UID

_LIMIT_BYTES = 4 << 20


def keep(path: pathlib.Path, data: bytes | None, *, dry: bool) -> dict[str, str]:
    """Have the file at `path` hold `data`, or be absent; return fields of `roles.Site` for it.

    A dry look touches nothing. Raises AgentError ``state.unwritable`` or ``state.corrupt``.
    """
    if data is None:
        if not dry and path.exists():
            with files.writing(path):
                path.unlink(missing_ok=True)
        return {}
    if not dry and files.read(path, _LIMIT_BYTES) != data:
        files.directory(path.parent, 0o750, group=FLOWER_UID)
        files.write_atomic(path, data, 0o440, group=FLOWER_UID)
    digest = hashlib.sha256(data).hexdigest()
    return {"environment_file": str(path), "environment_digest": digest}
