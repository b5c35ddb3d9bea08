"""Run other programs: with a time limit, a visible step, and their last words as the error."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Iterator

STEP_S = 1800
"""No single program may take longer; a slow download of a large wheel fits in."""


class BuildError(Exception):
    """One sentence on what went wrong and what to do about it."""


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Show what starts and, once it has ended well, how long it took."""
    print(f"{text} ...", flush=True)
    start = time.monotonic()
    yield
    print(f"  {time.monotonic() - start:.1f} s", flush=True)


def call(
    command: list[str],
    *,
    stdin: str | None = None,
    environment: dict[str, str] | None = None,
    check: bool = True,
    timeout_s: float = STEP_S,
    cwd: str | os.PathLike[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; raise BuildError with its last words when it fails."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env=os.environ | (environment or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            cwd=cwd,
        )
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is missing: install it and call this again") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"gave up on {shlex.join(command)} after {timeout_s:.0f} s") from None
    if check and done.returncode:
        words = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise BuildError(f"this failed; its last lines tell why: {shlex.join(command)}\n  {words}")
    return done


def present(image: str) -> bool:
    """Ask the Engine whether it has the image."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    return call(command, check=False, timeout_s=20).returncode == 0


def apt_install(package: str) -> None:
    """Install one Debian package; update apt's lists only if they do not know it."""
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-y", package]
    with step(f"installing {package}"):
        if call(command, environment=environment, check=False).returncode:
            call(["apt-get", "update"], check=False)
            call(command, environment=environment)
