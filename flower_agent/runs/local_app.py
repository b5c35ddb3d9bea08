"""The files of an app in a directory of this machine, read as data like those of a repository."""

import os
import pathlib

from flower_agent.errors import AgentError

from . import git

_LEFT_OUT = frozenset({".git", ".venv", "__pycache__", "node_modules"})


def read(directory: pathlib.Path) -> dict[str, bytes]:
    """Return the files that Flower may bundle, by path; symbolic links are not followed.

    Raises AgentError ``run.too_large`` and ``run.no_app``.
    """
    found: dict[str, bytes] = {}
    size = 0
    try:
        for place, directories, names in os.walk(directory):
            directories[:] = sorted(set(directories) - _LEFT_OUT)
            for path in (pathlib.Path(place) / name for name in sorted(names)):
                name = path.relative_to(directory).as_posix()
                if path.is_symlink() or not path.is_file() or not git.of_use(name):
                    continue
                size += path.stat().st_size
                if size > git.APP_BYTES or len(found) >= git.APP_FILES:
                    limit = f"{git.APP_BYTES // 1024**2} MiB or {git.APP_FILES} files"
                    raise AgentError("run.too_large", f"{directory} has more than {limit}")
                found[name] = path.read_bytes()
    except OSError as error:
        message = f"{directory} cannot be read: {error.strerror}"
        raise AgentError("run.no_app", message) from error
    return found
