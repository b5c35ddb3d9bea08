"""Download wheels with this machine's pip settings, and serve them to a build over loopback."""

from __future__ import annotations

import contextlib
import email.parser
import functools
import http.server
import pathlib
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator

from programs import BuildError, apt_install, call, step

SYSTEM_PYTHON = "/usr/bin/python3"
"""The distribution's own, so mostly the same minor version as in an image of it."""


def download(requirements: tuple[str, ...], python: str, work: pathlib.Path) -> pathlib.Path:
    """Fetch wheels for that Python into a fresh directory, with a requirements.txt of all of them.

    A release may pin a dependency newer than this index has; then the pin of that dependency is
    dropped, with a note. That is why the image later installs this exact set without resolving.
    """
    target = work / "wheels" / f"{requirements[0].replace('==', '-')}-py{python}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pip = [*private_pip(python, work / "pip"), "--dest", str(target)]
    with step(f"downloading {' '.join(requirements)} for Python {python}"):
        wanted = list(requirements)
        relaxed = {canonical(requirement) for requirement in requirements}
        while culprit := unmet(call([*pip, *wanted], check=False)):
            if canonical(culprit) in relaxed:
                raise BuildError(f"the package index has no {culprit}: check pip's settings")
            relaxed.add(canonical(culprit))
            print(f"  note: the package index has no {culprit}; taking the newest it has")
            call([*pip, "--no-deps", requirements[0]])
            wanted = [*relax(target, requirements[0], relaxed), *requirements[1:]]
    wheels = sorted(wheel.name.split("-")[:2] for wheel in target.glob("*.whl"))
    pins = "".join(f"{name}=={version}\n" for name, version in wheels)
    (target / "requirements.txt").write_text(pins, encoding="utf-8")
    return target


def private_pip(python: str, venv: pathlib.Path) -> list[str]:
    """Return a `pip download` command for that Python, from a venv made if absent.

    The system's own pip may be missing or refuse to work (PEP 668).
    """
    if not (venv / "bin" / "pip").exists():
        if call([SYSTEM_PYTHON, "-c", "import ensurepip"], check=False).returncode:
            apt_install("python3-venv")
        with step("making a private pip"):
            call([SYSTEM_PYTHON, "-m", "venv", "--clear", str(venv)])
    command = [str(venv / "bin" / "python"), "-m", "pip", "download", "--quiet"]
    command.append("--only-binary=:all:")
    own = call([SYSTEM_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    return command if own.stdout.strip() == python else [*command, "--python-version", python]


def unmet(done: subprocess.CompletedProcess[str]) -> str:
    """Return the requirement that pip found nothing for; empty if pip succeeded."""
    if done.returncode == 0:
        return ""
    found = re.search(r"No matching distribution found for (\S+)", done.stderr)
    if not found:
        words = "\n  ".join(done.stderr.strip().splitlines()[-6:])
        raise BuildError(f"pip cannot download; check its settings and the network:\n  {words}")
    return found[1]


def relax(directory: pathlib.Path, requirement: str, names: set[str]) -> list[str]:
    """Return what the wheel of `requirement` requires, without the bounds on `names`."""
    name = canonical(requirement).replace("-", "_")
    wheel = next(directory.glob(f"{name}-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        path = next(path for path in archive.namelist() if path.endswith(".dist-info/METADATA"))
        metadata = email.parser.Parser().parsestr(archive.read(path).decode())
    required = []
    for line in metadata.get_all("Requires-Dist", []):
        bare, _, marker = line.partition(";")
        loose = f"{canonical(bare)} ; {marker}" if marker else canonical(bare)
        required.append(loose if canonical(line) in names else line)
    return required


def canonical(requirement: str) -> str:
    """Return the normalised name at the start of a requirement."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


@contextlib.contextmanager
def served(directory: pathlib.Path) -> Iterator[str]:
    """Serve a directory on a free loopback port and yield its address."""
    handler = functools.partial(QuietHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="wheels", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""
