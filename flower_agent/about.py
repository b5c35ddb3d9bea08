"""Which build this is: what ``flower-agent --version`` prints.

A package has ``build.json`` beside this file, written by ``contrib/package``; a checkout has none.
"""

import json
import pathlib

from . import __version__, flower


def text(build: pathlib.Path | None = None) -> str:
    """Return version, package, commit and the Flower versions that are known."""
    build = build or pathlib.Path(__file__).with_name("build.json")
    try:
        found = json.loads(build.read_text("utf-8"))
    except (OSError, ValueError):
        found = {}
    oldest, newest = (".".join(map(str, v)) for v in (flower.OLDEST, flower.NEWEST))
    return (
        f"flower-agent {__version__}\n"
        f"package: {found.get('package', 'none, a checkout')}\n"
        f"commit: {found.get('commit', 'unknown')}\n"
        f"Flower: {oldest} to {newest}, {flower.DEFAULT} by default"
    )
