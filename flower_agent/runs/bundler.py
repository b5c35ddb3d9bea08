"""Builds an app's bundle (FAB) with Flower's own ``flwr build``, in a container of its own.

What goes into a bundle differs between Flower's versions, so the SuperLink's own image builds it.
The app's files go in and the bundle comes out as archives over Docker's API: nothing of the app is
a file on the VM. ``flwr build`` imports the packages of an app (seen with 1.25), so its code does
run there: the container has no network, no mount, no capability, and ends within `TIMEOUT_S`.
"""

import contextlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flower_agent.errors import AgentError
from flower_agent.steps import small_container
from flower_agent.steps.engine import Engine
from flower_agent.steps.small_container import Job
from flower_agent.wanted import flower

from . import build_failure, run_needs

LABEL = "org.flower-agent.bundler"
TIMEOUT_S = 120.0
LEFT_AFTER_S = 300.0
BUNDLE_BYTES = 16 * 1024 * 1024
"""More than any Flower takes (10 MiB)."""

MEMORY_BYTES = 1 << 30
PIDS = 256
FILE_BYTES = 64 * 1024 * 1024
SAID_BYTES = 1024 * 1024
_PLACE = "/app/bundling"
_ENVIRONMENT = {
    "FLWR_HOME": f"{_PLACE}/home",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "COLUMNS": "500",  # else rich breaks its sentences
}


class Bundler:
    """Builds bundles in the Engine of one agent; daemon and commands may do so at once."""

    def __init__(self, engine: Engine, *, timeout_s: float = TIMEOUT_S) -> None:
        self._engine = engine
        self._timeout_s = timeout_s

    def build(self, image: str, files: Mapping[str, bytes]) -> bytes:
        """Return the bundle of an app's files, by path, as the Flower in `image` makes it.

        Raises AgentError ``run.build`` with Flower's words, or ``docker.…``.
        """
        with self._container(image, "flwr", "build", "--app", f"{_PLACE}/app") as (api, name):
            api.put_archive(name, "/app", _archive(files))
            api.start(name)
            status = self._wait(api, name)
            if status != 0:
                raise _refusal(_said(api, name))
            chunks, _ = api.get_archive(name, f"{_PLACE}/out")
            return _bundle(chunks)

    def lacking(self, image: str, dependencies: Sequence[str]) -> tuple[str, ...]:
        """Return which of an app's dependencies `image` lacks. Raises AgentError."""
        command = ("python", "-I", "-S", "-c", run_needs.PROGRAM, *dependencies)
        with self._container(image, *command) as (api, name):
            api.start(name)
            self._wait(api, name)
            return run_needs.lacking(_said(api, name))

    @contextlib.contextmanager
    def _container(self, image: str, *command: str) -> Iterator[tuple[Any, str]]:
        """Give the Engine's client and a container that is removed at the end."""
        job = Job(
            label=LABEL,
            command=command,
            environment=_ENVIRONMENT,
            place=f"{_PLACE}/out",
            writable=True,
            memory_bytes=MEMORY_BYTES,
            pids=PIDS,
            file_bytes=FILE_BYTES,
        )
        with self._engine.calling("build the app's bundle", "run.build") as api:
            small_container.sweep(api, LABEL, self._engine.owner, older_s=LEFT_AFTER_S)
            with small_container.made(self._engine, api, image, job) as name:
                yield api, name

    def _wait(self, api: Any, name: str) -> int:
        message = f"the app's bundle was not built within {self._timeout_s:.0f} s"
        late = AgentError("run.build", message, retryable=True)
        return small_container.status(api, name, timeout_s=self._timeout_s, late=late)


def _archive(files: Mapping[str, bytes]) -> bytes:
    """Return a tar with the app and the empty directories beside it, all Flower's user's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        directories = {f"{at}" for path in files for at in _parents(f"bundling/app/{path}")}
        for name in sorted({"bundling", "bundling/out", "bundling/home"} | directories):
            member = _member(name, 0o755)
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        for path, content in files.items():
            member = _member(f"bundling/app/{path}", 0o644)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _member(name: str, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid = mode, flower.UID, flower.UID
    return member


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[: n + 1]) for n in range(len(parts)))


def _bundle(chunks: Iterable[bytes]) -> bytes:
    buffer = io.BytesIO()
    for chunk in chunks:
        buffer.write(chunk)
        if buffer.tell() > BUNDLE_BYTES:
            raise AgentError("run.too_large", "the app's bundle is larger than Flower takes")
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        for member in tar:
            bundle = member.isfile() and member.name.endswith(".fab")
            file = tar.extractfile(member) if bundle else None
            if file is not None:
                return file.read()
    raise AgentError("run.build", "flwr build ended well and left no bundle", retryable=True)


def _refusal(said: str) -> AgentError:
    words = build_failure.cause(said, f"{_PLACE}/app")
    return AgentError("run.build", f"flwr build refused the app: {words}", retryable=True)


def _said(api: Any, name: str) -> str:
    """Return the end of what a container printed, which an app's code may print without end."""
    found = bytearray()
    for chunk in api.logs(name, stream=True):
        found += chunk
        del found[:-SAID_BYTES]
    return found.decode("utf-8", "replace")
