"""Docker Engine, through docker-py's low-level client; `build_container` makes images with it.

Leans on what was measured against Engine 20.10 with docker-py 7: the events stream ends silently
with the daemon and never replays, so events only wake the loop and state is always listed again;
requests' exceptions are not DockerExceptions, and streams raise urllib3's; a client outlives a
daemon restart; a hung daemon blocks the events reader for ever, so every other call has a time
limit.
"""

import contextlib
import datetime
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import docker
import docker.errors
import docker.types
import docker.utils.config
import requests
import urllib3.exceptions

from flower_agent.config.flower_versions import DATA
from flower_agent.docker.containers import (
    CPU_PERIOD_US,
    CPU_QUOTA_STARTING_US,
    CPU_SHARES,
    CPU_SHARES_STARTING,
    FLOWER_UID,
    LABEL_FINGERPRINT,
    LABEL_NAME,
    LABEL_ROLE,
    Container,
    Existing,
    Mount,
    inspected,
)
from flower_agent.docker.image_references import (
    Image,
    Reference,
    Registry,
    inspected_image,
    locked_reference,
    pull_failure,
)
from flower_agent.host import gpu
from flower_agent.model import errors, foreign_text
from flower_agent.model.errors import (
    AgentError,
    DockerDownError,
    ImagePullError,
    StateFileError,
    innermost,
)

TIMEOUT_S = 10
SLOW_TIMEOUT_S = 600
"""For create and start, which take minutes after `docker load` with Docker 29's image store."""

SELINUX = pathlib.Path("/sys/fs/selinux/enforce")
"""The file exists if the kernel uses SELinux."""

STOP_TIMEOUT_S = 30
"""Flower stops within a second; only a hanging container is killed after this."""

PIDS_LIMIT = 4096
CHANGES = ("create", "start", "die", "oom", "destroy", "pause", "unpause", "rename")
"""Events that change the result of `containers`; reads such as ``top`` cause events too."""

UNREACHABLE = (
    docker.errors.DockerException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
)

CHUNK = 1 << 16
_HEADER = 8
"""Bytes before each piece of a log."""

LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}


def socket_url() -> str:
    """Return the address of this VM's Engine: DOCKER_HOST, else the usual socket."""
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


class Engine:
    """The Docker Engine at `url`, and this agent's containers in it."""

    def __init__(
        self,
        owner: str,
        *,
        url: str = "unix:///var/run/docker.sock",
        timeout_s: int = TIMEOUT_S,
        slow_s: int = SLOW_TIMEOUT_S,
        enforce: pathlib.Path = SELINUX,
    ) -> None:
        self.owner = owner
        self._url = url
        self._timeout_s = timeout_s
        self._slow_s = slow_s
        self._enforce = enforce
        self._confines: bool | None = None
        self._client: docker.APIClient | None = None
        self._lock = threading.Lock()

    def _api(self) -> docker.APIClient:
        """Return the client; the first call asks the daemon for its API version."""
        with self._lock:
            if self._client is None:
                self._client = _client(self._url, "auto", self._timeout_s)
            return self._client

    def _another(self, timeout_s: int) -> docker.APIClient:
        return _client(self._url, self._api().api_version, timeout_s)

    @contextlib.contextmanager
    def calling(
        self,
        what: str,
        code: str | Callable[[str], str] = "docker.refused",
        *,
        timeout_s: int | None = None,
    ) -> Iterator[docker.APIClient]:
        """Translate every failure of docker-py into an AgentError about `what`.

        A refusal is of the kind of `code`, which may be found by Docker's reason.
        With `timeout_s` the call gets its own client, because it may take long.
        """
        try:
            if timeout_s is None:
                yield self._api()
                return
            with contextlib.closing(self._another(timeout_s)) as api:
                yield api
        except docker.errors.APIError as error:
            self._forget_version(error)
            reason = _reason(error)
            refused = code if isinstance(code, str) else code(reason)
            message = f"Docker refused to {what}: {reason}"
            raise errors.kind(refused)(refused, message, retryable=True) from error
        except UNREACHABLE as error:
            cause = innermost(error)
            hint = "Run the command as root." if cause == "permission denied" else ""
            message = f"Docker does not answer at {self._url}: {cause}"
            raise DockerDownError("docker.down", message, hint, retryable=True) from error

    def _forget_version(self, error: docker.errors.APIError) -> None:
        """Drop the client after an engine upgrade that ended its API version."""
        if "client version" in str(error.explanation):
            with self._lock:
                self._client = None

    def offers(self) -> gpu.Offers:
        """Return the ways in which this engine gives GPUs to a container."""
        with self.calling("tell about itself") as api:
            return gpu.offers(api.info())

    def containers(self) -> tuple[Existing, ...]:
        """Return every container: this agent's with details, the others by name only."""
        found: list[Existing] = []
        with self.calling("list containers") as api:
            for row in api.containers(all=True):
                name = str((row.get("Names") or ["/"])[0]).lstrip("/")
                if (row.get("Labels") or {}).get(LABEL_NAME) != self.owner:
                    found.append(Existing(name=name, container_id=row["Id"], mine=False))
                    continue
                try:
                    found.append(inspected(api.inspect_container(row["Id"])))
                except docker.errors.NotFound:
                    continue  # removed since it was listed
        return tuple(found)

    def create(self, container: Container, image: str) -> None:
        """Create `container` from `image` (its reference, with a digest if known)."""
        with self._slowly("create", container.name) as api:
            api.create_container(
                image,
                command=list(container.command),
                entrypoint=list(container.entrypoint) or None,
                name=container.name,
                user=f"{FLOWER_UID}:{FLOWER_UID}",
                environment=dict(container.environment),
                labels={
                    LABEL_NAME: self.owner,
                    LABEL_ROLE: container.part.value,
                    LABEL_FINGERPRINT: container.fingerprint,
                },
                host_config=_host_config(api, container, **self.bindings(api, container.mounts)),
                healthcheck={"test": ["NONE"]},  # the agent itself asks Flower's health service
                use_config_proxy=False,  # gRPC would send its calls through a proxy
            )

    def bindings(self, api: docker.APIClient, mounts: Iterable[Mount]) -> dict[str, Any]:
        """Return the mounts as options of docker-py's ``create_host_config``.

        With SELinux a container can read only files with its label. Docker sets the label on the
        source of a bind whose mode contains ``z``; a mount has no such option.
        """
        relabels = self._selinux(api)
        return bindings(tuple(mounts), self.owner, relabels=relabels)

    def _selinux(self, api: docker.APIClient) -> bool:
        """Return whether Docker uses SELinux for containers; asks only once, if SELinux is on."""
        if self._confines is None:
            options = api.info().get("SecurityOptions") if self._enforce.exists() else ()
            self._confines = any("name=selinux" in str(option) for option in options or ())
        return self._confines

    @contextlib.contextmanager
    def _slowly(self, verb: str, name: str) -> Iterator[docker.APIClient]:
        """Give a client for a call that Docker may still be working on at the next try.

        Docker then refuses the name: the container is in no list before it is complete. Raises
        AgentError ``docker.busy``, which does not count as a refusal.
        """
        slow_s, what = self._slow_s, f"{verb} {name}"
        with self.calling(what, gpu.refusal, timeout_s=slow_s) as api:
            try:
                yield api
            except requests.ReadTimeout as error:
                message = f"Docker has worked for {slow_s} s and continues: {what}"
                raise AgentError("docker.busy", message, retryable=True) from error
            except docker.errors.APIError as error:
                conflict = error.status_code == requests.codes.conflict
                if not conflict or "already in use" not in _reason(error):
                    raise
                message = f"Docker still works: {what}"
                raise AgentError("docker.busy", message, retryable=True) from error

    def start(self, name: str) -> None:
        """Start an existing container, over a new connection.

        A dockerd that shuts down accepts no new connection but still serves old ones. A container
        that it starts then lives on without it: the next dockerd does not know it and cannot start
        it.
        """
        with self._slowly("start", name) as fresh:
            fresh.start(name)

    def stop(self, name: str) -> None:
        """Send SIGTERM and wait for the end; SIGKILL comes only after `STOP_TIMEOUT_S`."""
        with self.calling(f"stop {name}") as api, contextlib.suppress(docker.errors.NotFound):
            api.stop(name, timeout=STOP_TIMEOUT_S)

    def remove(self, name: str) -> None:
        """Remove a stopped container; a missing one is no error."""
        with self.calling(f"remove {name}") as api, contextlib.suppress(docker.errors.NotFound):
            api.remove_container(name, v=True)

    def give_cpu(self, name: str) -> None:
        """Give a running container with a small CPU share the usual share, without a limit."""
        with self.calling(f"update {name}") as api:
            api.update_container(name, cpu_shares=CPU_SHARES, cpu_quota=-1)

    def logs(
        self,
        name: str,
        *,
        since: datetime.datetime | None = None,
        tail: int | None = None,
        stamped: bool = False,
    ) -> str:
        """Return a container's output, at most the last `tail` lines, from `since` on.

        `stamped` puts Docker's time before each line. Of long output only the begin and the end are
        kept (`foreign_text`).
        """
        with self.calling(f"read the logs of {name}") as api:
            # docker-py keeps several copies of a log of 30 MiB, or streams it without a time limit.
            url = f"{api.base_url}/v{api.api_version}/containers/{name}/logs"
            asked = {
                "stdout": 1,
                "stderr": 1,
                "timestamps": int(stamped),
                "tail": "all" if tail is None else tail,
                **({"since": since.timestamp()} if since else {}),
            }
            with api.get(url, params=asked, timeout=self._timeout_s, stream=True) as answer:
                _raise_for_status(answer)
                chunks = _unframed(answer.iter_content(CHUNK))
                return foreign_text.decoded(chunks, first=foreign_text.FIRST_BYTES)

    def processes(self, name: str) -> tuple[str, ...]:
        """Return the command lines of a running container's processes."""
        with self.calling(f"list the processes of {name}") as api:
            rows = api.top(name).get("Processes") or ()
        return tuple(str(row[-1]) for row in rows)

    def execute(self, name: str, command: tuple[str, ...]) -> gpu.Answer:
        """Run a program in a running container; the program must limit its own time."""
        with self.calling(f"run {command[0]} in {name}") as api:
            made = api.exec_create(name, list(command))["Id"]
            text = bytes(api.exec_start(made)).decode("utf-8", "replace")
            return gpu.Answer(int(api.exec_inspect(made)["ExitCode"]), text)

    def follow(self, name: str, *, tail: int, stamped: bool = False) -> Iterator[str]:
        """Yield a container's new output until the container ends."""
        with self.calling(f"follow the logs of {name}") as api:
            for chunk in api.logs(name, stream=True, follow=True, tail=tail, timestamps=stamped):
                yield bytes(chunk).decode("utf-8", "replace")

    def image(self, reference: str) -> Image | None:
        """Return the local image of that reference, or None."""
        with self.calling(f"look at image {reference}") as api:
            try:
                found = api.inspect_image(reference)  # type: ignore[no-untyped-call]  # stubs lack it
            except docker.errors.ImageNotFound:
                return None
        return inspected_image(found)

    def pull(
        self,
        reference: str,
        *,
        digest: str = "",
        registry: Registry | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Pull an image, by `digest` if one is pinned; afterwards it has the tag of `reference`.

        Raises AgentError ``image.denied`` (not retryable) or ``image.pull`` (retryable).
        """
        wanted = Reference.parse(reference)
        with self.calling(f"pull {reference}", "image.pull") as api:
            try:
                for event in api.pull(
                    wanted.repository,
                    tag=digest or wanted.tag,
                    auth_config=auth(registry),
                    stream=True,
                    decode=True,
                ):
                    _note(event, reference, progress)
            except docker.errors.APIError as error:
                raise pull_failure(reference, _reason(error)) from error
            if digest:
                api.tag(locked_reference(reference, digest), wanted.repository, wanted.tag)
        if self.image(reference) is None:
            raise ImagePullError(
                "image.pull", f"the pull of {reference} was cut off", retryable=True
            )

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` for every event of this agent's containers until the stream ends.

        Returns when the daemon goes away; the caller lists and watches again.
        """
        label = f"{LABEL_NAME}={self.owner}"
        filters = {"type": "container", "label": label, "event": list(CHANGES)}
        with self.calling("stream events") as api:
            events = api.events(filters=filters, decode=False)
            wake()  # changes before the stream began are found by a new list
            for _ in events:
                wake()

    def close(self) -> None:
        """Close the client's connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None


def _raise_for_status(answer: requests.Response) -> None:
    """Raise docker-py's error for an HTTP error of Docker."""
    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        docker.errors.create_api_error_from_http_exception(error)


def _unframed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the text in Docker's frames: 8 bytes with the stream and a length, then the text.

    Containers without a terminal use them: docs.docker.com, Engine API, ContainerAttach.
    """
    header, left = b"", 0
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            if left:
                piece = chunk[at : at + left]
                yield piece
                left -= len(piece)
                at += len(piece)
                continue
            more = chunk[at : at + _HEADER - len(header)]
            header += more
            at += len(more)
            if len(header) == _HEADER:
                header, left = b"", int.from_bytes(header[4:], "big")


def auth(registry: Registry | None) -> dict[str, str] | None:
    """Return a login in docker-py's form."""
    if registry is None:
        return None
    return {"username": registry.user, "password": registry.password.reveal()}


def _no_file(_: str | None = None) -> None:
    """Return no path: ``config.json`` must not be used."""


def _client(url: str, version: str, timeout_s: int) -> docker.APIClient:
    """Return a client that ignores proxies and .netrc of the environment.

    It also ignores the user's ``~/.docker/config.json``: a login there is not the daemon's, and a
    ``credsStore`` with a missing helper would break every pull. docker-py searches for that file in
    its constructor and before each pull, and has no option against it.
    """
    docker.utils.config.find_config_file = _no_file  # type: ignore[assignment]  # for good
    client = docker.APIClient(url, version=version, timeout=timeout_s)
    client.trust_env = False
    return client


def mounted(mount: Mount, owner: str) -> docker.types.Mount:
    """Return a mount in docker-py's form; Docker creates a volume that does not exist."""
    if not mount.volume:
        return docker.types.Mount(
            mount.target,
            mount.source,
            type="bind",
            read_only=mount.read_only,
            propagation=mount.propagation,
        )
    return docker.types.Mount(
        mount.target,
        mount.source,
        type="volume",
        read_only=mount.read_only,
        no_copy=True,
        labels={LABEL_NAME: owner},
        driver_config=docker.types.DriverConfig("local", options=dict(mount.volume)),
    )


def bindings(mounts: tuple[Mount, ...], owner: str, *, relabels: bool) -> dict[str, Any]:
    """Return ``mounts``, and as ``binds`` the mounts that Docker must relabel for SELinux.

    The operator's data keep their label: a new label may take hours, and lock out other programs.
    Raises AgentError ``state.corrupt`` for a source that does not exist: Docker would create the
    source of a bind mount as a directory.
    """
    own = [mount for mount in mounts if relabels and not mount.volume and mount.target != DATA]
    for mount in own:
        if not pathlib.Path(mount.source).exists():
            raise StateFileError("state.corrupt", f"{mount.source} does not exist", retryable=True)
    return {
        "mounts": [mounted(mount, owner) for mount in mounts if mount not in own],
        "binds": [f"{mount.source}:{mount.target}:{_mode(mount)}" for mount in own] or None,
    }


def _mode(mount: Mount) -> str:
    """Return the mode of a bind; ``z`` allows several containers."""
    return f"{'ro' if mount.read_only else 'rw'},{mount.propagation},z"


def _host_config(api: docker.APIClient, container: Container, **bound: Any) -> Any:
    # A SuperExec starts with little CPU, so that the Flower program beside it is ready sooner.
    yields = container.yields_cpu
    return api.create_host_config(
        network_mode="host",
        userns_mode="host",  # with userns-remap Docker refuses the host's network otherwise
        extra_hosts=dict(container.hosts) or None,
        restart_policy={"Name": "no"},
        init=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs=dict(container.tmpfs),
        **bound,
        pids_limit=PIDS_LIMIT,
        mem_limit=container.memory_bytes,
        memswap_limit=container.memory_bytes,
        shm_size=container.shm_bytes,
        cpu_shares=CPU_SHARES_STARTING if yields else None,
        cpu_period=CPU_PERIOD_US if yields else None,
        cpu_quota=CPU_QUOTA_STARTING_US if yields else None,
        log_config=docker.types.LogConfig(type="json-file", config=LOG_OPTIONS),
        device_requests=[docker.types.DeviceRequest(**r) for r in gpu.requests(container.gpu)],
    )


def _note(event: dict[str, Any], reference: str, progress: Callable[[str], None]) -> None:
    if "error" in event:
        raise pull_failure(reference, str(event["error"]))
    if event.get("status"):
        progress(str(event["status"]))


def _reason(error: docker.errors.APIError) -> str:
    return str(error.explanation or error).strip()
