"""Which wheels an image gets, CPU builds where no GPU is used, and how large they are.

pip is asked once for all that the app wants. Where torch or its kin is among the answer and no GPU
is used, their CPU builds are fetched from an index of their own, by their names alone, and pip is
asked again with these in its hands. What that index cannot give is taken from the usual one.

pip's installation report has addresses and no sizes, so a program beside pip asks each server with
HEAD (RFC 9110, Content-Length), by pip's own proxy, login and authorities. A server that does not
tell leaves a size unknown.
"""

import json
import pathlib
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Protocol

from flower_agent import files
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.flower.frameworks import PLACE, WheelLock
from flower_agent.images import app_images
from flower_agent.images.build_container import BuildExit
from flower_agent.model.errors import AgentError

FILE = "sizes.json"
MAX_BYTES = 1 << 20
DEADLINE_S = 30

PROGRAM = """\
import base64, concurrent.futures, configparser, json, os, ssl, sys, time
import urllib.parse, urllib.request
report, settings, target, authorities, deadline_s = sys.argv[1:]
end = time.monotonic() + float(deadline_s)
conf = configparser.RawConfigParser()
conf.read(settings)
proxy = conf.get("global", "proxy", fallback="")
index = urllib.parse.urlsplit(conf.get("global", "index-url", fallback=""))
trust = ssl.create_default_context(cafile=authorities if os.path.exists(authorities) else None)
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({"https": proxy} if proxy else {}),
    urllib.request.HTTPSHandler(context=trust),
)
def size(url):
    where = urllib.parse.urlsplit(url)
    if where.scheme == "file":
        return os.path.getsize(urllib.parse.unquote(where.path))
    left_s = end - time.monotonic()
    if left_s <= 0 or where.scheme not in ("http", "https"):
        return 0
    ask = urllib.request.Request(url, method="HEAD")
    if index.password is not None and where.hostname == index.hostname:
        login = ":".join(map(urllib.parse.unquote, (index.username or "", index.password)))
        ask.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    with opener.open(ask, timeout=min(left_s, 10)) as answer:
        return int(answer.headers["Content-Length"])
def safe(url):
    try:
        return size(url)
    except Exception:
        return 0
with open(report) as file:
    urls = [row["download_info"]["url"] for row in json.load(file)["install"]]
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = dict(zip(urls, pool.map(safe, urls)))
with open(target, "w") as file:
    json.dump(found, file)
"""
"""No word of it reaches a shell or an image; what it is given are paths and a number."""


def command(report: str) -> tuple[str, ...]:
    """Return the command that writes the sizes of what is in pip's report `report`."""
    paths = (f"{PLACE}/{name}" for name in (report, "pip.conf", FILE, "ca.crt"))
    return ("python", "-I", "-S", "-c", PROGRAM, *paths, str(DEADLINE_S))


def read(data: bytes | None) -> dict[str, int]:
    """Return the size in bytes of each wheel, by address; what is unknown is left out."""
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    rows: Iterable[tuple[object, object]] = found.items() if isinstance(found, dict) else ()
    return {str(url): size for url, size in rows if isinstance(size, int) and size > 0}


Say = Callable[[str], None]


class Pip(Protocol):
    """Runs a program of the image that gets the wheels, with the network of the VM."""

    def __call__(self, command: tuple[str, ...], index: str = "") -> BuildExit:
        """Return how it ended; `index` is asked in place of the usual one."""


class Resolver:
    """Resolves for one image, in the directory of its wheels."""

    def __init__(
        self, place: pathlib.Path, pip: Pip, reference: str, *, progress: Say, warn: Say
    ) -> None:
        self._place = place
        self._pip = pip
        self._reference = reference
        self._progress = progress
        self._warn = warn

    def resolve(self, needed: tuple[str, ...], cpu_index: str) -> WheelLock:
        """Return the wheels that `needed` wants, with CPU builds of `cpu_index` unless empty.

        Raises AgentError ``image.build`` with pip's words, or ``image.framework``.
        """
        self._write(app_images.WANTED, needed)
        self._progress("asks the index for the wheels")
        report = self._ask(self._pip(app_images.resolve()))
        cpu: tuple[str, ...] = ()
        try:
            wanted = app_images.with_cuda(report) if cpu_index else ()
            if wanted:
                cpu, report = self._with_cpu(wanted, report, cpu_index)
            self._pip(command(app_images.REPORT))
            told = files.read(self._place / FILE, MAX_BYTES)
            return app_images.lock(report, read(told), cpu=cpu, index=cpu_index)
        except ValueError as error:
            raise AgentError(
                "image.build", f"pip gave no list of wheels: {error}", retryable=True
            ) from error

    def _with_cpu(
        self, wanted: tuple[str, ...], report: bytes, index: str
    ) -> tuple[tuple[str, ...], bytes]:
        """Return the CPU builds that are taken, and pip's report with them; else `report`."""
        names = ", ".join(wanted)
        self._progress(f"downloads the CPU builds of {names}")
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
            f"{where} gave no CPU build of {names} that fits ({why(ended)}); {self._reference} "
            f"uses the builds of the usual index, which may contain CUDA"
        )
        return (), report

    def _ask(self, ended: BuildExit) -> bytes:
        succeeded(ended, f"what {self._reference} needs could not be resolved")
        report = files.read(self._place / app_images.REPORT, app_images.MAX_REPORT_BYTES)
        return report or b"{}"

    def _write(self, name: str, lines: tuple[str, ...]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        files.write_atomic(
            self._place / name, text.encode(), 0o640, group=FLOWER_UID, durable=False
        )


def succeeded(ended: BuildExit, what: str) -> None:
    """Raise AgentError ``image.build`` about `what`, with pip's words, unless it ended well."""
    if ended.exit_code != 0:
        raise AgentError("image.build", f"{what}: {why(ended)}", retryable=True)


def why(ended: BuildExit) -> str:
    """Return the cause that pip printed."""
    lines = ended.said.splitlines() or [f"exit code {ended.exit_code}"]
    told = [line for line in lines if line.startswith("ERROR: ")] or lines
    return told[-1]
