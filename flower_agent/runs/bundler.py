"""Builds an app's bundle (FAB) with Flower's own ``flwr build``, in a container of its own.

What goes into a bundle differs between Flower's versions, so the SuperLink's own image builds it.
The app's files go in and the bundle comes out as archives over Docker's API: nothing of the app is
a file on the VM. ``flwr build`` imports the packages of an app (seen with 1.25), so its code does
run there: the container has no network, no mount, no capability, and ends within `TIMEOUT_S`.
"""

import contextlib
import datetime
import io
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flower_agent.errors import AgentError
from flower_agent.steps.engine import LOG_OPTIONS, Engine
from flower_agent.wanted import flower

from . import build_failure, run_needs
from .git_process import OOM_SCORE_ADJ

LABEL = "org.flower-agent.bundler"
"""Whose container it is. Not the agent's own label: no plan wants it."""

TIMEOUT_S = 120.0
LEFT_AFTER_S = 300.0
BUNDLE_BYTES = 16 * 1024 * 1024
"""More than any Flower takes (10 MiB)."""

MEMORY_BYTES = 1 << 30
PIDS = 256
FILE_BYTES = 64 * 1024 * 1024
SAID_BYTES = 1024 * 1024
_LOOK_S = 0.1
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
        with self._container(image, "flwr", ("build", "--app", f"{_PLACE}/app")) as (api, name):
            api.put_archive(name, "/app", _archive(files))
            api.start(name)
            status = self._wait(api, name)
            if status != 0:
                raise _refusal(_said(api, name))
            chunks, _ = api.get_archive(name, f"{_PLACE}/out")
            return _bundle(chunks)

    def lacking(self, image: str, dependencies: Sequence[str]) -> tuple[str, ...]:
        """Return which of an app's dependencies `image` lacks. Raises AgentError."""
        command = ("-I", "-S", "-c", run_needs.PROGRAM, *dependencies)
        with self._container(image, "python", command) as (api, name):
            api.start(name)
            self._wait(api, name)
            return run_needs.lacking(_said(api, name))

    @contextlib.contextmanager
    def _container(
        self, image: str, program: str, command: Sequence[str]
    ) -> Iterator[tuple[Any, str]]:
        """Give the Engine's client and a container that is removed at the end."""
        with self._engine.calling("build the app's bundle", "run.build") as api:
            self._sweep(api)
            name = self._create(api, image, program, command)
            try:
                yield api, name
            finally:
                api.remove_container(name, force=True, v=True)

    def _sweep(self, api: Any) -> None:
        """Remove what a process that was killed left; what is young may be another's at work."""
        label, now = f"{LABEL}={self._engine.owner}", datetime.datetime.now(datetime.UTC)
        for left in api.containers(all=True, filters={"label": label}):
            if now.timestamp() - left["Created"] > LEFT_AFTER_S:
                with contextlib.suppress(AgentError):
                    self._remove(left["Id"])

    def _remove(self, name: str) -> None:
        with self._engine.calling(f"remove {name}") as api:
            api.remove_container(name, force=True, v=True)

    def _create(self, api: Any, image: str, program: str, command: Sequence[str]) -> str:
        made = api.create_container(
            image,
            entrypoint=[program],
            command=list(command),
            user=f"{flower.UID}:{flower.UID}",
            environment=_ENVIRONMENT,
            working_dir=f"{_PLACE}/out",
            labels={LABEL: self._engine.owner},
            network_disabled=True,
            healthcheck={"test": ["NONE"]},
            use_config_proxy=False,
            host_config=_host_config(api),
        )
        return str(made["Id"])

    def _wait(self, api: Any, name: str) -> int:
        end = time.monotonic() + self._timeout_s
        while True:
            state = api.inspect_container(name)["State"]
            if not state["Running"]:
                return int(state["ExitCode"])
            if time.monotonic() > end:
                message = f"the app's bundle was not built within {self._timeout_s:.0f} s"
                raise AgentError("run.build", message, retryable=True)
            time.sleep(_LOOK_S)


def _host_config(api: Any) -> Any:
    return api.create_host_config(
        network_mode="none",
        restart_policy={"Name": "no"},
        init=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=PIDS,
        mem_limit=MEMORY_BYTES,
        memswap_limit=MEMORY_BYTES,
        oom_score_adj=OOM_SCORE_ADJ,
        ulimits=[{"Name": "fsize", "Soft": FILE_BYTES, "Hard": FILE_BYTES}],
        log_config={"Type": "json-file", "Config": LOG_OPTIONS},
    )


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
