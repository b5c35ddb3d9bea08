"""Which build this is: what ``flower-agent --version`` prints.

A package has ``build.json`` beside ``cli.py``, written by ``contrib/package``; a checkout has none.
"""

import json
import pathlib

from flower_agent import __version__
from flower_agent.config import flower_versions


def text(build: pathlib.Path | None = None) -> str:
    """Return version, package, commit and the Flower versions that are known."""
    build = build or pathlib.Path(__file__).parents[1] / "build.json"
    try:
        found = json.loads(build.read_text("utf-8"))
    except (OSError, ValueError):
        found = {}
    oldest, newest = (
        ".".join(map(str, v)) for v in (flower_versions.OLDEST, flower_versions.NEWEST)
    )
    return (
        f"flower-agent {__version__}\n"
        f"package: {found.get('package', 'none, a checkout')}\n"
        f"commit: {found.get('commit', 'unknown')}\n"
        f"Flower: {oldest} to {newest}, {flower_versions.DEFAULT} by default"
    )
