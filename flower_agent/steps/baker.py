"""Makes a SuperExec image with a framework: Flower's image, the locked wheels, one new layer.

The wheels are fetched in a container of Flower's own image, whose pip and Python fit, and lie in
``/var/lib/flower-agent/bake`` until the image is whole: what was fetched is not fetched again.
They are installed in a second container without a network, which becomes the image.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping

import structlog

from flower_agent import files
from flower_agent.errors import AgentError
from flower_agent.wanted import frameworks, images
from flower_agent.wanted.containers import FLOWER_UID
from flower_agent.wanted.frameworks import GIVEN, PLACE, Lock
from flower_agent.wanted.images import LABEL_MADE_OF, Image, Registry

from .engine import Engine
from .workbench import Ended, Workbench

PYPI = "https://pypi.org/simple"
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
)
"""Where distributions keep the authorities that the machine trusts: a proxy's or mirror's, too."""

LOCKS = pathlib.Path(__file__).parents[1] / "locks"

Progress = Callable[[str], None]

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where wheels come from."""

    index: str = PYPI
    proxy: str = ""
    given: pathlib.Path | None = None
    """A directory of wheels that is looked into first."""

    authorities: pathlib.Path | None = None


def source(environment: Mapping[str, str], *, index: str = "", given: str = "") -> Source:
    """Return the source that the usual variables of pip and proxies name."""
    proxies = (environment.get(name, "") for name in ("https_proxy", "HTTPS_PROXY"))
    found = (pathlib.Path(path) for path in AUTHORITIES)
    return Source(
        index=index or environment.get("PIP_INDEX_URL", "") or PYPI,
        proxy=next((proxy for proxy in proxies if proxy), ""),
        given=pathlib.Path(given).absolute() if given else _find_links(environment),
        authorities=next((path for path in found if path.is_file()), None),
    )


def _find_links(environment: Mapping[str, str]) -> pathlib.Path | None:
    named = pathlib.Path(environment.get("PIP_FIND_LINKS", ""))
    return named if named.is_absolute() and named.is_dir() else None


def read_lock(name: str, python: str) -> Lock:
    """Return the lock of a framework for a Python. Raises AgentError ``image.framework``."""
    path = LOCKS / frameworks.lock_name(name, python)
    return frameworks.parse_lock(path.read_text("utf-8"))


class Baker:
    """Builds derived images, one at a time on this machine."""

    def __init__(
        self,
        engine: Engine,
        workbench: Workbench,
        place: pathlib.Path,
        *,
        read: Callable[[str, str], Lock] = read_lock,
    ) -> None:
        self._engine = engine
        self._workbench = workbench
        self._place = place
        self._read = read

    def ensure(
        self,
        reference: str,
        parent: str,
        *,
        where: Source,
        pins: Mapping[str, str],
        registry: Registry | None = None,
        progress: Progress = lambda _: None,
    ) -> Image:
        """Return the image `reference`, made anew unless it was made of the same.

        `parent` is Flower's image, pulled where it is absent. Raises AgentError ``image.build``,
        retryable, ``image.framework``, or what a pull raises.
        """
        files.directory(self._place, 0o770, group=FLOWER_UID)
        lock = files.lock(self._place / "lock")
        if lock is None:
            raise AgentError("image.build", f"another build of {reference} runs", retryable=True)
        with lock:
            self._workbench.sweep()
            base = self._parent(parent, pins, registry, progress)
            name = frameworks.split(reference)[1]
            wheels = self._read(name, self._python(base))
            made_of = frameworks.made_of(images.pin(parent, base), wheels)
            found = self._engine.image(reference)
            if found is None or found.made_of != made_of:
                self._fetch(reference, base, wheels, where, progress)
                progress(f"installs {len(wheels.names)} wheels")
                self._install(reference, name, base, made_of)
                found = self._engine.image(reference)
            self._clear()
        if found is None or found.made_of != made_of:
            raise AgentError("image.build", f"{reference} is gone again", retryable=True)
        return found

    def _parent(
        self, parent: str, pins: Mapping[str, str], registry: Registry | None, progress: Progress
    ) -> Image:
        digest = pins.get(parent, "")
        found = self._engine.image(parent)
        if found is None or images.pinned(parent, found, digest) is None:
            progress(f"pulls {parent}")
            self._engine.pull(parent, digest=digest, registry=registry, progress=progress)
            found = self._engine.image(parent)
        if found is None:
            raise AgentError("image.pull", f"{parent} is gone again", retryable=True)
        return found

    def _python(self, base: Image) -> str:
        ask = ("python", "--version")
        with self._workbench.run(base.image_id, ask, mounts={}, online=False) as ended:
            return frameworks.python_of(ended.said)

    def _fetch(
        self, reference: str, base: Image, lock: Lock, where: Source, progress: Progress
    ) -> None:
        room = files.room_bytes(self._place)
        if room is not None and room < lock.size_bytes:
            sizes = f"{_mb(lock.size_bytes)} of wheels, {_mb(room)} are free"
            raise AgentError("image.build", f"{reference} needs {sizes}", retryable=True)
        wheels = self._place / "wheels"
        files.directory(wheels, 0o770, group=FLOWER_UID)
        self._write("lock.txt", lock.text)
        mounts = {PLACE: (str(self._place), True)}
        if where.given is not None:
            mounts[GIVEN] = (str(where.given), False)
        if where.authorities is not None:
            self._write("ca.crt", where.authorities.read_text("utf-8"))

        def say(line: str) -> None:
            done = sum(1 for _ in wheels.glob("*.whl"))
            progress(f"{done} of {len(lock.names)} wheels, {_mb(lock.size_bytes)}: {line}")

        for number, part in enumerate(lock.parts):
            self._write(f"part-{number}.txt", part.text)
            settings = frameworks.pip_conf(
                part.index or where.index, cert=where.authorities is not None, proxy=where.proxy
            )
            self._write("pip.conf", settings)
            with self._workbench.run(
                base.image_id,
                frameworks.download(number),
                mounts=mounts,
                online=True,
                environment={"PIP_CONFIG_FILE": f"{PLACE}/pip.conf"},
                progress=say,
            ) as ended:
                _succeeded(ended, f"the wheels of {reference} could not be fetched")

    def _install(self, reference: str, name: str, base: Image, made_of: str) -> None:
        mounts = {PLACE: (str(self._place), False)}
        with self._workbench.run(
            base.image_id, frameworks.install(name), mounts=mounts, online=False
        ) as ended:
            if ended.exit_code == frameworks.CHECK_FAILED:
                why = f"{name} does not fit Flower's image: {ended.said.splitlines()[-1]}"
                raise AgentError("image.framework", why, "Use another FLOWER_VERSION.")
            _succeeded(ended, f"{reference} could not be made")
            self._workbench.commit(
                ended.container_id, reference, base, f"{LABEL_MADE_OF}={made_of}"
            )
        log.info("image.made", image=reference, made_of=made_of)

    def _write(self, name: str, text: str) -> None:
        files.write_atomic(
            self._place / name, text.encode(), 0o640, group=FLOWER_UID, durable=False
        )

    def _clear(self) -> None:
        """Remove all but the lock's file, whose absence would let two builds run."""
        with files.writing(self._place):
            for path in self._leftovers():
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _leftovers(self) -> Iterator[pathlib.Path]:
        return (path for path in self._place.iterdir() if path.name != "lock")


def _succeeded(ended: Ended, what: str) -> None:
    if ended.exit_code == 0:
        return
    lines = ended.said.splitlines() or [f"exit code {ended.exit_code}"]
    told = [line for line in lines if line.startswith("ERROR: ")] or lines
    raise AgentError("image.build", f"{what}: {told[-1]}", retryable=True)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
