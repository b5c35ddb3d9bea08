"""Builds images with a framework or an app's packages: Flower's image and one layer of wheels.

A build takes minutes and never holds up the care for what runs.

The wheels are fetched in a container of Flower's own image, whose pip and Python fit, and lie in
``/var/lib/flower-agent/bake`` until the image is whole: what was fetched is not fetched again.
They are installed in a second container without a network, which becomes the image.
"""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import structlog

from flower_agent import files
from flower_agent.background import Background, Threads
from flower_agent.docker import image_references
from flower_agent.docker.client import Engine
from flower_agent.docker.containers import FLOWER_UID
from flower_agent.docker.image_references import LABEL_MADE_OF, Image, Registry
from flower_agent.flower import frameworks
from flower_agent.flower.frameworks import GIVEN, PLACE, WheelLock
from flower_agent.images import app_images
from flower_agent.images.build_container import BuildContainers, BuildExit
from flower_agent.images.wheels import Resolver, succeeded
from flower_agent.model.errors import AgentError, ImagePullError
from flower_agent.reconcile import restart_policy

log = structlog.get_logger()

PYPI = "https://pypi.org/simple"
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
)
"""The machine's trusted CAs, which may include one of a proxy or mirror."""

ASK_S = 120.0
"""Time limit for a check of an image, also on a slow disk."""

LOCKS = pathlib.Path(__file__).parents[1] / "locks"

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """The source of wheels."""

    index: str = PYPI
    cpu_index: str = app_images.CPU_INDEX
    """Index with the CPU builds of `app_images.CPU_NAMES`; no other package comes from it."""

    proxy: str = ""
    given: pathlib.Path | None = None
    """A directory with wheels to use first."""

    authorities: pathlib.Path | None = None


def source(environment: Mapping[str, str], *, index: str = "", given: str = "") -> WheelSource:
    """Return the source from the usual variables of pip and proxies.

    ``TORCH_CPU_INDEX_URL`` is ours: the index of CPU builds; empty for none.
    """
    proxies = (environment.get(name, "") for name in ("https_proxy", "HTTPS_PROXY"))
    found = (pathlib.Path(path) for path in AUTHORITIES)
    return WheelSource(
        index=index or environment.get("PIP_INDEX_URL", "") or PYPI,
        cpu_index=environment.get("TORCH_CPU_INDEX_URL", app_images.CPU_INDEX),
        proxy=next((proxy for proxy in proxies if proxy), ""),
        given=pathlib.Path(given).absolute() if given else _find_links(environment),
        authorities=next((path for path in found if path.is_file()), None),
    )


def _find_links(environment: Mapping[str, str]) -> pathlib.Path | None:
    named = pathlib.Path(environment.get("PIP_FIND_LINKS", ""))
    return named if named.is_absolute() and named.is_dir() else None


def read_lock(name: str, python: str) -> WheelLock:
    """Return the lock of a framework for a Python. Raises AgentError ``image.framework``."""
    path = LOCKS / frameworks.lock_name(name, python)
    return frameworks.parse_lock(path.read_text("utf-8"))


@dataclasses.dataclass(frozen=True, slots=True)
class _ImageSpec:
    """One image to build."""

    reference: str
    base: Image
    made_of: str
    module: str = ""


class ImageBuilder:
    """Builds derived images, one at a time on this machine."""

    def __init__(
        self,
        engine: Engine,
        build_containers: BuildContainers,
        place: pathlib.Path,
        *,
        read: Callable[[str, str], WheelLock] = read_lock,
    ) -> None:
        self._engine = engine
        self._build_containers = build_containers
        self._place = place
        self._read = read

    def ensure(
        self,
        reference: str,
        parent: str,
        *,
        where: WheelSource,
        pins: Mapping[str, str],
        registry: Registry | None = None,
        progress: Progress = lambda _: None,
    ) -> Image:
        """Return the image `reference`; build it unless it was built from the same parts.

        `parent` is Flower's image, pulled if absent. Raises AgentError ``image.build``,
        retryable, ``image.framework``, or what a pull raises.
        """
        with self._alone(reference):
            base = self._parent(parent, pins, registry, progress)
            name = frameworks.split(reference)[1]
            wheels = self._read(name, self._python(base))
            made_of = frameworks.made_of(image_references.pin(parent, base), wheels)
            wanted = _ImageSpec(reference, base, made_of, frameworks.module(name))
            return self._make(wanted, lambda: wheels, where, progress)

    def ensure_app(
        self,
        parent: str,
        dependencies: tuple[str, ...],
        *,
        where: WheelSource,
        pins: Mapping[str, str],
        cuda: bool = False,
        registry: Registry | None = None,
        progress: Progress = lambda _: None,
        warn: Progress = lambda _: None,
    ) -> Image:
        """Return the image with an app's dependencies in addition to `parent`.

        Without `cuda`, CPU builds are used if available; `warn` gets a message if not. A `parent`
        that no registry has must be on this machine. Raises the errors of `ensure`.
        """
        needed = app_images.needed(dependencies)
        reference = app_images.image(parent, needed, cuda=cuda)

        def resolve() -> WheelLock:
            pip = functools.partial(self._pip, base, where, progress)
            resolver = Resolver(self._place, pip, reference, progress=progress, warn=warn)
            return resolver.resolve(needed, "" if cuda else where.cpu_index)

        with self._alone(reference):
            base = self._parent(parent, pins, registry, progress)
            made_of = app_images.made_of(image_references.pin(parent, base), needed, cuda=cuda)
            return self._make(_ImageSpec(reference, base, made_of), resolve, where, progress)

    @contextlib.contextmanager
    def _alone(self, reference: str) -> Iterator[None]:
        files.directory(self._place, 0o770, group=FLOWER_UID)
        lock = files.lock(self._place / "lock")
        if lock is None:
            raise AgentError("image.build", f"another build of {reference} runs", retryable=True)
        with lock:
            self._build_containers.sweep()  # nobody else builds now: these are leftovers
            yield

    def _make(
        self,
        wanted: _ImageSpec,
        wheels: Callable[[], WheelLock],
        where: WheelSource,
        progress: Progress,
    ) -> Image:
        found = self._engine.image(wanted.reference)
        if found is None or found.made_of != wanted.made_of:
            lock = wheels()
            self._fetch(wanted, lock, where, progress)
            progress(f"installs {len(lock.names)} wheels")
            self._install(wanted)
            found = self._engine.image(wanted.reference)
        self._clear()  # only after success: a failed build keeps its downloads
        if found is None or found.made_of != wanted.made_of:
            raise AgentError(
                "image.build", f"{wanted.reference} was removed meanwhile", retryable=True
            )
        return found

    def _parent(
        self, parent: str, pins: Mapping[str, str], registry: Registry | None, progress: Progress
    ) -> Image:
        digest = pins.get(parent, "")
        found = self._engine.image(parent)
        if found is None or image_references.pinned(parent, found, digest) is None:
            progress(f"pulls {parent}")
            self._engine.pull(parent, digest=digest, registry=registry, progress=progress)
            found = self._engine.image(parent)
        if found is None:
            raise ImagePullError("image.pull", f"{parent} was removed meanwhile", retryable=True)
        return found

    def _python(self, base: Image) -> str:
        ask = ("python", "-I", "-S", "--version")
        with self._build_containers.run(
            base.image_id, ask, mounts={}, online=False, limit_s=ASK_S
        ) as ended:
            return frameworks.python_of(ended.said)

    def _fetch(
        self, wanted: _ImageSpec, lock: WheelLock, where: WheelSource, progress: Progress
    ) -> None:
        # Before the download: a full disk would also stop the SuperLink's database.
        room = files.room_bytes(self._place)
        if room is not None and room < lock.size_bytes:
            sizes = f"{_mb(lock.size_bytes)} for wheels, but only {_mb(room)} are free"
            raise AgentError("image.build", f"{wanted.reference} needs {sizes}", retryable=True)
        wheels = self._place / "wheels"
        files.directory(wheels, 0o770, group=FLOWER_UID)
        self._write("lock.txt", lock.text)
        progress(f"fetches {lock.amount}")
        log.info("image.fetch", image=wanted.reference, amount=lock.amount)

        def say(line: str) -> None:
            done = sum(1 for _ in wheels.glob("*.whl"))
            progress(f"{done} of {lock.amount}: {line}")

        for number, part in enumerate(lock.parts):
            self._write(f"part-{number}.txt", part.text)
            ended = self._pip(wanted.base, where, say, frameworks.download(number), part.index)
            succeeded(ended, f"the wheels for {wanted.reference} could not be downloaded")

    def _pip(
        self,
        base: Image,
        where: WheelSource,
        progress: Progress,
        command: tuple[str, ...],
        index: str = "",
    ) -> BuildExit:
        """Run pip with the VM's network and the settings of `where`."""
        mounts = {PLACE: (str(self._place), True)}
        if where.given is not None:
            _readable(where.given)
            mounts[GIVEN] = (str(where.given), False)
        if where.authorities is not None:
            self._write("ca.crt", where.authorities.read_text("utf-8"))
        trusted = where.authorities is not None
        settings = frameworks.pip_conf(index or where.index, cert=trusted, proxy=where.proxy)
        self._write("pip.conf", settings)
        environment = {"PIP_CONFIG_FILE": f"{PLACE}/pip.conf"}
        with self._build_containers.run(
            base.image_id,
            command,
            mounts=mounts,
            online=True,
            environment=environment,
            progress=progress,
        ) as ended:
            return ended

    def _install(self, wanted: _ImageSpec) -> None:
        mounts = {PLACE: (str(self._place), False)}
        command = frameworks.install(wanted.module)
        with self._build_containers.run(
            wanted.base.image_id, command, mounts=mounts, online=False
        ) as ended:
            if ended.exit_code == frameworks.CHECK_FAILED:
                why = (
                    f"{wanted.reference} does not fit Flower's image: {ended.said.splitlines()[-1]}"
                )
                raise AgentError("image.framework", why, "Use another FLOWER_VERSION.")
            succeeded(ended, f"{wanted.reference} could not be built")
            label = f"{LABEL_MADE_OF}={wanted.made_of}"
            self._build_containers.commit(ended.container_id, wanted.reference, wanted.base, label)
        log.info("image.made", image=wanted.reference, made_of=wanted.made_of)

    def _write(self, name: str, text: str) -> None:
        files.write_atomic(
            self._place / name, text.encode(), 0o640, group=FLOWER_UID, durable=False
        )

    def _clear(self) -> None:
        """Remove everything except the lock's file: without it two builds could run."""
        with files.writing(self._place):
            for path in self._leftovers():
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _leftovers(self) -> Iterator[pathlib.Path]:
        return (path for path in self._place.iterdir() if path.name != "lock")


def _readable(folder: pathlib.Path) -> None:
    """Raise AgentError ``image.build`` if pip, which is not root there, cannot read the wheels."""
    needed = stat.S_IROTH | stat.S_IXOTH
    if not folder.is_dir() or folder.stat().st_mode & needed != needed:
        message = f"{folder} does not exist, or the container cannot read it"
        raise AgentError("image.build", message, f"chmod -R a+rX {folder}", retryable=True)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"


class FrameworkBuilder(Protocol):
    """Builds an image: `ImageBuilder`."""

    def ensure(
        self,
        reference: str,
        parent: str,
        *,
        where: WheelSource,
        pins: Mapping[str, str],
        registry: Registry | None,
        progress: Progress,
    ) -> Image:
        """Return the image, made where it must be."""


_Request = tuple[str, str, Registry | None, WheelSource]
"""The parent image, its pinned digest, and where it and the wheels are from."""


class BackgroundBuilder:
    """At most one build at a time, and why the last one failed."""

    def __init__(
        self,
        builder: FrameworkBuilder,
        threads: Threads,
        where: WheelSource | None = None,
        *,
        scale: float = 1.0,
    ) -> None:
        self._builder = builder
        self._threads = threads
        self._usual = self._where = where or WheelSource()
        self._scale = scale
        self._builds: dict[str, Background[_Request, Image]] = {}
        self.progress = ""
        """The last progress message of the running build."""

    def make(
        self,
        reference: str,
        parent: str,
        pins: Mapping[str, str],
        registry: Registry | None,
        now: float,
    ) -> AgentError | None:
        """Begin to make the image, or look how it goes; return why the last try failed.

        `now` is monotonic seconds. What waiting does not mend is tried every five minutes; another
        parent, registry or proxy is tried at once.
        """
        build, where = self._build(reference), self._where
        request = (parent, pins.get(parent, ""), registry, where)

        def make() -> Image:
            return self._builder.ensure(
                reference,
                parent,
                where=where,
                pins=pins,
                registry=registry,
                progress=self._say,
            )

        ended = build.take(request, now)
        if ended is not None:
            self.progress = ""
            if ended.error is None:
                return None
            log.warning("image.make_failed", image=reference, reason=str(ended.error))
        if now >= build.due_at and build.start(request, make, now):
            log.info("image.make", image=reference)
        return build.error

    def through(self, proxy: str) -> None:
        """Let pip use this proxy from now on; empty: the one of the agent's environment."""
        self._where = dataclasses.replace(self._usual, proxy=proxy or self._usual.proxy)

    def forget(self) -> None:
        """Try again at once: other settings may help."""
        for build in self._builds.values():
            build.forget()

    def _build(self, reference: str) -> Background[_Request, Image]:
        if reference not in self._builds:
            pause, name = restart_policy.policy(self._scale), f"make {reference}"
            self._builds[reference] = Background(self._threads, name, pause, good_for_s=0.0)
        return self._builds[reference]

    def _say(self, text: str) -> None:
        self.progress = text
