"""Which wheels an app's image gets: pip's answer, CPU builds where no GPU is used, and sizes.

pip is asked once for all that the app wants. Where torch or its kin is among the answer and no GPU
is used, their CPU builds are fetched from an index of their own, by their names alone, and pip is
asked again with these in its hands. What that index cannot give is taken from the usual one.
"""

import pathlib
import urllib.parse
from collections.abc import Callable
from typing import Protocol

from flower_agent import files
from flower_agent.errors import AgentError
from flower_agent.wanted import app_images, wheel_sizes
from flower_agent.wanted.containers import FLOWER_UID
from flower_agent.wanted.frameworks import Lock

from .workbench import Ended

Say = Callable[[str], None]


class Pip(Protocol):
    """Runs a program of the image that gets the wheels, with the network of the VM."""

    def __call__(self, command: tuple[str, ...], index: str = "") -> Ended:
        """Return how it ended; `index` is asked in place of the usual one."""


class Resolver:
    """Resolves for one image, in the place where its wheels lie."""

    def __init__(
        self, place: pathlib.Path, pip: Pip, reference: str, *, progress: Say, warn: Say
    ) -> None:
        self._place = place
        self._pip = pip
        self._reference = reference
        self._progress = progress
        self._warn = warn

    def resolve(self, needed: tuple[str, ...], cpu_index: str) -> Lock:
        """Return the wheels that `needed` wants, with CPU builds of `cpu_index` unless empty.

        Raises AgentError ``image.build`` with pip's words, or ``image.framework``.
        """
        self._write(app_images.WANTED, needed)
        self._progress("asks the index what is wanted")
        report = self._ask(self._pip(app_images.resolve()))
        cpu: tuple[str, ...] = ()
        try:
            wanted = app_images.with_cuda(report) if cpu_index else ()
            if wanted:
                cpu, report = self._with_cpu(wanted, report, cpu_index)
            self._pip(wheel_sizes.command(app_images.REPORT))
            told = files.read(self._place / wheel_sizes.FILE, wheel_sizes.MAX_BYTES)
            return app_images.lock(report, wheel_sizes.read(told), cpu=cpu, index=cpu_index)
        except ValueError as error:
            raise AgentError("image.build", f"pip told no lock: {error}", retryable=True) from error

    def _with_cpu(
        self, wanted: tuple[str, ...], report: bytes, index: str
    ) -> tuple[tuple[str, ...], bytes]:
        """Return the CPU builds that are taken, and pip's report with them; else `report`."""
        names = ", ".join(wanted)
        self._progress(f"fetches the CPU builds of {names}")
        self._write(app_images.CPU_WANTED, wanted)
        wheels = self._place / "wheels"
        files.directory(wheels, 0o770, group=FLOWER_UID)
        ended = self._pip(app_images.fetch_cpu(), index)
        found = app_images.cpu_builds(wanted, (path.name for path in wheels.glob("*.whl")))
        if ended.exit_code == 0 and found:
            self._write(app_images.CONSTRAINTS, found)
            ended = self._pip(app_images.resolve(constrained=True))
            if ended.exit_code == 0:
                return found, self._ask(ended)
            self._write(app_images.REPORT, (report.decode(),))  # it may be there no more
        for path in wheels.glob("*+*.whl"):  # else pip would prefer them to what is locked
            path.unlink()
        where = urllib.parse.urlsplit(index).hostname or index
        self._warn(
            f"{where} gave no CPU build of {names} that fits ({why(ended)}); the builds of the "
            f"usual index are taken for {self._reference}, which may bring CUDA"
        )
        return (), report

    def _ask(self, ended: Ended) -> bytes:
        succeeded(ended, f"what {self._reference} needs could not be resolved")
        report = files.read(self._place / app_images.REPORT, app_images.MAX_REPORT_BYTES)
        return report or b"{}"

    def _write(self, name: str, lines: tuple[str, ...]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        files.write_atomic(
            self._place / name, text.encode(), 0o640, group=FLOWER_UID, durable=False
        )


def succeeded(ended: Ended, what: str) -> None:
    """Raise AgentError ``image.build`` about `what`, with pip's words, unless it ended well."""
    if ended.exit_code != 0:
        raise AgentError("image.build", f"{what}: {why(ended)}", retryable=True)


def why(ended: Ended) -> str:
    """Return what pip named as the cause of its end."""
    lines = ended.said.splitlines() or [f"exit code {ended.exit_code}"]
    told = [line for line in lines if line.startswith("ERROR: ")] or lines
    return told[-1]
