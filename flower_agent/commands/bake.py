"""``flower-agent bake``, for image builders: images here, pinned in images.lock.

Each image is pinned as soon as it is whole, so that a bake that was cut off goes on where it was.
"""

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from flower_agent import files
from flower_agent.agent import image_resolver
from flower_agent.config import flower_versions, parsing, types
from flower_agent.config import sources as config_sources
from flower_agent.config.settings import Settings
from flower_agent.docker import image_references
from flower_agent.docker.client import Engine, socket_url
from flower_agent.docker.image_references import Image
from flower_agent.flower import container_spec, frameworks
from flower_agent.host import machine
from flower_agent.images import app_images, builder
from flower_agent.images.build_container import BuildContainers
from flower_agent.images.builder import ImageBuilder, WheelSource
from flower_agent.model import errors, foreign_text
from flower_agent.model.errors import AgentError, Severity
from flower_agent.model.state import AppNeeds
from flower_agent.paths import Paths
from flower_agent.runs import app_image
from flower_agent.runs.bundle import Bundler
from flower_agent.runs.git import Git

PARTS = ("superlink", "supernode", "superexec")
SAY_EVERY_S = 2.0


def run(
    paths: Paths, version: str, wanted: Sequence[str], where: WheelSource, apps: Sequence[str] = ()
) -> int:
    """Pull Flower's images, build those of frameworks and apps, pin them, print sizes."""
    sources = [_source(text) for text in apps]
    good = _settings(paths, version)
    names = wanted or ([good.framework.value] if good.framework else [])
    for finding in machine.findings(machine.cpu_flags(), names):
        print(f"warning: {finding}\n  fix: {finding.hint}")
    total = 0
    with contextlib.closing(Engine("bake", url=socket_url())) as engine:
        for reference, image in _images(engine, paths, good, names, where):
            pin = image_references.pin(reference, image)
            _pin(paths.images_lock, reference, pin)
            total += image.size_bytes
            print(f"{reference}  {pin}  {_size(image.size_bytes)}")
        parents = [frameworks.image(good.version.release, name) for name in names]
        parents = parents or [flower_versions.image(good.image_prefix, "superexec", good.version)]
        for app in sources:
            total += sum(_app(engine, paths, parents, good=good, where=where, source=app))
    print(f"pinned in {paths.images_lock}; {_size(total)}, shared layers count once")
    return 0


def _settings(paths: Paths, version: str) -> Settings:
    """Return the image builder's defaults with that version. Raises AgentError of the first."""
    read = config_sources.read(paths, context_file=pathlib.Path("/dev/null"))
    asked = {"FLOWER_ROLE": "supernode", **({"FLOWER_VERSION": version} if version else {})}
    parsed = parsing.parse(asked, {**read.config, "flower_role": ""})
    for finding in (*read.findings, *parsed.findings):
        if finding.severity is Severity.ERROR:
            raise errors.of(finding)
    if parsed.settings is None:
        raise ValueError("no settings and no finding")
    return parsed.settings


def _images(
    engine: Engine, paths: Paths, good: Settings, names: Sequence[str], where: WheelSource
) -> Iterator[tuple[str, Image]]:
    registry = image_resolver.registry(good)
    pins = image_resolver.locked(paths.images_lock)
    for part in PARTS:
        reference = flower_versions.image(good.image_prefix, part, good.version)
        found = engine.image(reference)
        if (
            found is None
            or image_references.pinned(reference, found, pins.get(reference, "")) is None
        ):
            with _telling(reference) as progress:
                engine.pull(
                    reference,
                    digest=pins.get(reference, ""),
                    registry=registry,
                    progress=progress,
                )
            found = engine.image(reference)
        if found is not None:
            yield reference, found
    builder = ImageBuilder(engine, BuildContainers(engine), paths.bake)
    parent = flower_versions.image(good.image_prefix, "superexec", good.version)
    for name in names:
        reference = frameworks.image(good.version.release, name)
        with _telling(reference) as progress:
            made = builder.ensure(
                reference, parent, where=where, pins=pins, registry=registry, progress=progress
            )
        yield reference, made


def _app(
    engine: Engine,
    paths: Paths,
    parents: Sequence[str],
    *,
    good: Settings,
    where: WheelSource,
    source: types.AppSource,
) -> Iterator[int]:
    """Build the images with an app's dependencies on top of `parents`; yield their sizes."""
    needs = app_image.fetch(Git(paths.app), source)
    _pin(paths.images_lock, needs=needs)
    print(f"{source}: {needs}")
    wanted = app_images.needed(needs.dependencies)
    pins = image_resolver.locked(paths.images_lock)
    builder = ImageBuilder(engine, BuildContainers(engine), paths.bake)
    for parent in parents:
        if not Bundler(engine).lacking(parent, wanted):
            print(f"{parent} has everything that {needs} needs")
            continue
        cuda = _cuda(good, parent)
        reference = app_images.image(parent, wanted, cuda=cuda)
        with _telling(reference) as progress:
            made = builder.ensure_app(
                parent, wanted, where=where, pins=pins, cuda=cuda, progress=progress, warn=_warn
            )
        pin = image_references.pin(reference, made)
        _pin(paths.images_lock, reference, pin)
        print(f"{reference}  {pin}  {_size(made.size_bytes)}")
        yield made.size_bytes


def _cuda(good: Settings, parent: str) -> bool:
    """Return whether VMs with a GPU run apps in images on `parent`, as far as is known here."""
    name = frameworks.split(parent)[1]
    both = f"{name}{frameworks.CUDA}" in frameworks.NAMES  # then a GPU has the other one
    wants = container_spec.wants_cuda(good, devices=False)
    return parent.endswith(frameworks.CUDA) or (wants and not both)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _source(app: str) -> types.AppSource:
    try:
        return types.parse_app_source(app)
    except ValueError as error:
        raise AgentError("run.no_app", f"--app is not a repository: {error}") from None


def _pin(
    lock: pathlib.Path, reference: str = "", pin: str = "", *, needs: AppNeeds | None = None
) -> None:
    rows, apps = image_resolver.locked(lock), image_resolver.locked_apps(lock)
    if reference:
        rows[reference] = pin
    if needs is not None:
        apps[needs.source] = needs
    files.directory(lock.parent, 0o755)
    files.write_atomic(lock, image_references.dump_lock(rows, apps), 0o644)


@contextlib.contextmanager
def _telling(reference: str) -> Iterator[Callable[[str], None]]:
    """Return a function that prints a line of progress from time to time."""
    said, at = "", float("-inf")

    def say(text: str) -> None:
        nonlocal said, at
        if text and text != said and time.monotonic() - at >= SAY_EVERY_S:
            said, at = text, time.monotonic()
            print(f"{reference}: {foreign_text.message(text)}", flush=True)

    yield say
    sys.stdout.flush()


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"


def source(index: str, wheels: str, environment: dict[str, str]) -> WheelSource:
    """Return the source of wheels. Raises AgentError for a missing directory."""
    found = builder.source(environment, index=index, given=wheels)
    if found.given is not None and not found.given.is_dir():
        raise AgentError(
            "image.build", f"there is no directory {found.given}", "Name a directory that exists."
        )
    return found
