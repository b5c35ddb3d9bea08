"""``flower-agent runs report``: one run as one HTML file, whole or not there."""

import datetime
import os
import pathlib

from flower_agent import __version__, files
from flower_agent.commands import runs
from flower_agent.model.errors import StateFileError
from flower_agent.paths import Paths
from flower_agent.reporting import run_report
from flower_agent.runs.store import RunFiles


def write(paths: Paths, run_id: str, target: pathlib.Path | None) -> int:
    """Write the report of a run.

    Raises AgentError ``run.unknown``, or ``state.unwritable`` where `target` is no regular file.
    """
    found = runs.document(RunFiles(paths.runs), run_id)
    path = target or pathlib.Path(f"run-{run_id}.html")
    if path.is_dir():
        name = path / f"run-{run_id}.html"
        raise StateFileError(
            "state.unwritable", f"{path} is a directory", f"Name a file: -o {name}"
        )
    if path.exists() and not path.is_file():
        message = f"{path} is no regular file"
        raise StateFileError("state.unwritable", message, "Name another file.")
    page = run_report.render(run_id, found, __version__, datetime.datetime.now(datetime.UTC))
    data = page.encode("utf-8")
    files.write_atomic(path, data, 0o666 & ~_umask())
    print(f"{path}, {runs.size(len(data))}")
    return 0


def _umask() -> int:
    """Return what new files are not; the kernel tells it to whoever sets it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
