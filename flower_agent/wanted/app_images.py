"""SuperExec images with what one app needs: its parent's, and the app's dependencies. Pure.

What an app declares (``[project] dependencies``, PEP 508) has no hashes; pip resolves it once
against what the parent has, wheels only, and its report (pip: installation report, version 1) is
the lock of this image. Flower itself is not among them: the image has it.
"""

import hashlib
import json
import re
from collections.abc import Iterable

from flower_agent.errors import AgentError

from . import frameworks
from .frameworks import GIVEN, LOCAL, PLACE, Lock
from .images import Reference

REPORT = "report.json"
WANTED = "wanted.txt"
MAX_REPORT_BYTES = 1 << 24

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NEED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]* ?(\[[A-Za-z0-9._, -]*\])? ?([<>=!~;(].*)?")


def needed(dependencies: Iterable[str]) -> tuple[str, ...]:
    """Return the requirements beside Flower, sorted. Raises AgentError ``image.framework``."""
    found = sorted({" ".join(text.split()) for text in dependencies})
    for text in found:
        if not _NEED.fullmatch(text) or "@" in text or " -" in text:  # pip takes more in a line
            message = f"the app wants {text!r}: want a name and versions, no address"
            raise AgentError("image.framework", message, "Declare a release of it in the app.")
    return tuple(text for text in found if _name(text) != "flwr")


def image(parent: str, wanted: tuple[str, ...]) -> str:
    """Return the reference of the image that has `wanted` beside what `parent` has."""
    return f"{LOCAL}superexec:{Reference.parse(parent).tag}-app-{_digest(wanted)[:12]}"


def derives(reference: str, parent: str) -> bool:
    """Tell whether an image has what an app needs beside what `parent` has, as its name says."""
    return reference.startswith(f"{LOCAL}superexec:{Reference.parse(parent).tag}-app-")


def made_of(parent: str, wanted: tuple[str, ...]) -> str:
    """Return ``sha256:…`` of all that makes the image; the versions are chosen when it is made."""
    return f"sha256:{_digest((parent, *wanted))}"


def resolve() -> tuple[str, ...]:
    """Return the command that asks pip which wheels are wanted; it installs nothing."""
    return (
        *("python", "-m", "pip", "install", "--dry-run", "--quiet", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--no-cache-dir", "--retries", "3"),
        *("--find-links", GIVEN, "--report", f"{PLACE}/{REPORT}", "-r", f"{PLACE}/{WANTED}"),
    )


def lock(report: bytes) -> Lock:
    """Return what pip would install. Raises ValueError for no report of pip.

    AgentError ``image.framework`` where another Flower is among it.
    """
    try:
        rows = [
            (
                _normal(found["metadata"]["name"]),
                found["metadata"]["version"],
                found["download_info"]["archive_info"]["hashes"]["sha256"],
            )
            for found in json.loads(report)["install"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"want pip's installation report: no {error}") from error
    if any(name == "flwr" for name, _, _ in rows):
        message = "what the app wants would change Flower itself"
        raise AgentError("image.framework", message, "Let the app want what fits FLOWER_VERSION.")
    lines = [
        f"{name}=={version} --hash=sha256:{sha256}  # 0 bytes" for name, version, sha256 in rows
    ]
    return frameworks.parse_lock("".join(f"{line}\n" for line in sorted(lines)))


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return _normal(found[0]) if found else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _digest(lines: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
