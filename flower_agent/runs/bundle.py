"""Builds an app's bundle (FAB) with Flower's own ``flwr build``; says what failed or lacks.

What goes into a bundle differs between Flower's versions, so the SuperLink's own image builds it.
The app's files go in and the bundle comes out as archives over Docker's API: nothing of the app is
a file on the VM. ``flwr build`` imports the packages of an app (seen with 1.25), so its code does
run there: the container has no network, no mount, no capability, and ends within `TIMEOUT_S`.

Flower prints by ``rich`` (seen with 1.25 and 1.42): a plain sentence, a box titled Error, or the
frame of a traceback with the exception below it, after the one that caused it where there is one.
The frames hold lines of code and values of variables, which are no cause; an app prints what it
likes beside.

A program inside the image tells, since only its Python knows what is installed. PEP 508 is read by
``packaging``, or by pip's own copy of it; one of the two is in every image. Python starts with
``-I -S``, so that no ``.pth`` file of a wheel runs; the program finds the packages by itself, as
the module ``site`` does for a virtual environment (PEP 405).
"""

import contextlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flower_agent.config import flower_versions
from flower_agent.docker import one_shot
from flower_agent.docker.client import Engine
from flower_agent.docker.one_shot import Job
from flower_agent.images import app_images
from flower_agent.model.errors import AgentError

MOST = 400
"""Characters of a cause."""

_LOOKED_AT = 256 * 1024
"""Characters from the end that are looked at: several times what a real traceback has."""

_BOX = re.compile("[\u2500-\u257f]")
_BEGIN, _END = "\u256d", "\u2570"
_BECAUSE = "The above exception was the direct cause of the following exception:"


def cause(said: str, place: str = "") -> str:
    """Return the cause in few words; `place` is the app's directory there, which means nothing.

    Where one exception was raised from another, it is the one that came first.
    """
    plain, boxed = _split(said[-_LOOKED_AT:].replace("\u274c", " ").splitlines())
    if len(plain) > 1 and plain[-1]:
        words = _innermost(plain)
    elif boxed:
        words = " ".join(boxed)[:MOST]
    else:
        words = " ".join(" ".join(plain[0]).split())[-MOST:]
    words = words.replace(f"{place}/", "") if place else words
    plainly = (letter if letter.isprintable() else " " for letter in words)
    return " ".join("".join(plainly).split())[:MOST]


def _split(lines: list[str]) -> tuple[list[list[str]], list[str]]:
    """Return the lines outside of frames, cut where a frame is, and those inside the last frame."""
    plain: list[list[str]] = [[]]
    inside: list[str] = []
    for line in map(str.strip, lines):
        if line.startswith(_BEGIN):
            inside = []
        elif line.startswith(_END):
            if plain[-1] or len(plain) == 1:
                plain.append([])
        elif _BOX.match(line):
            inside.append(_BOX.sub(" ", line).strip())
        elif line:
            plain[-1].append(line)
    return plain, [line for line in inside if line]


def _innermost(plain: list[list[str]]) -> str:
    """Return the last exception, or the one before where that was its cause."""
    groups = [" ".join(group) for group in plain]
    at = len(groups) - 1
    while at > 0 and groups[at - 1].endswith(_BECAUSE):
        at -= 1
    return groups[at].removesuffix(_BECAUSE)


PROGRAM = """\
import os, re, site, sys
home = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
places, own = site.getsitepackages(), "python{}.{}".format(*sys.version_info)
try:
    with open(os.path.join(home, "pyvenv.cfg")) as file:
        if not re.search("(?im)^include-system-site-packages *= *true", file.read()):
            places = []
    places = [os.path.join(home, "lib", own, "site-packages"), *places]
except OSError:
    pass
sys.path += places
from importlib import metadata
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
for text in sys.argv[1:]:
    try:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        found = metadata.version(wanted.name)
        if not wanted.specifier.contains(found, prereleases=True):
            print("lacks", wanted, "(it has " + found + ")")
    except metadata.PackageNotFoundError:
        print("lacks", wanted)
    except Exception:
        continue
print("done")
"""

_LACKS, _DONE = "lacks ", "done"

SHOWN = 5
"""Most nodes or packages in one sentence."""

_MOST_LETTERS = 80


def lacking(said: str) -> tuple[str, ...]:
    """Return what the image lacks, from what `PROGRAM` said; nothing where it did not end well."""
    lines = said.splitlines()
    if _DONE not in lines:
        return ()
    return tuple(line.removeprefix(_LACKS) for line in lines if line.startswith(_LACKS))


def compared(
    dependencies: Sequence[str],
    image: str,
    lacks: Sequence[str],
    nodes: Iterable[tuple[str, str | None]],
    *,
    of_context: bool,
) -> tuple[str, ...]:
    """Return, before a submission, which images lack packages of an app, as sentences.

    `image` is what the SuperLink's image is pinned by (`pin`) and `lacks` what it lacks of
    the app. `nodes` are names with the FLOWER_APP_IMAGE that each published, None for nodes outside
    the service. With `of_context` the app is that of CUSTOM_APP_REPO, which the nodes know; what a
    node lacks of any other is only known where its image is the SuperLink's. Raises AgentError
    ``image.framework`` for dependencies that no image can have.
    """
    wanted = app_images.needed(dependencies)
    if not wanted:
        return ()
    found: dict[str, list[str]] = {}
    if lacks:
        found[f"lacks {_some(lacks)}"] = ["the SuperLink"]
    for name, published in nodes:
        said = _of_node(wanted, image, lacks, published, of_context=of_context)
        if said:
            found.setdefault(said, []).append("".join(filter(str.isprintable, name)))
    return tuple(f"the image of {_some(names)} {said}" for said, names in found.items())


def _of_node(
    wanted: Sequence[str],
    image: str,
    lacks: Sequence[str],
    published: str | None,
    *,
    of_context: bool,
) -> str:
    """Return the sentence about a node's image; empty if it has all packages."""
    if published is None:
        return "is unknown: a node outside the service does not publish its packages"
    digest, lacking = app_images.read_published(published)
    if digest and digest == image:
        return f"lacks {_some(lacks)}" if lacks else ""
    if not digest or lacking is None or not of_context:
        return "may lack packages that the app needs"
    names = {app_images.name_in(text) for text in wanted}
    known = [name for name in lacking if name in names or name.startswith("+")]
    return f"lacks {_some(known)}" if known else ""


def _some(words: Sequence[str]) -> str:
    """Return the first words, and how many more there are; ``+3`` among them counts three."""
    plain = [word[:_MOST_LETTERS] for word in words if not word.startswith("+")]
    more = sum(int(word[1:]) for word in words if word.startswith("+"))
    more += len(plain[SHOWN:])
    return ", ".join(plain[:SHOWN]) + (f" and {more} more" if more else "")


LABEL = "org.flower-agent.bundler"
TIMEOUT_S = 120.0
LEFT_AFTER_S = 300.0
BUNDLE_BYTES = 16 * 1024 * 1024
"""More than any Flower accepts (10 MiB)."""

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
        command = ("python", "-I", "-S", "-c", PROGRAM, *dependencies)
        with self._container(image, *command) as (api, name):
            api.start(name)
            self._wait(api, name)
            return lacking(_said(api, name))

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
            one_shot.sweep(api, LABEL, self._engine.owner, older_s=LEFT_AFTER_S)
            with one_shot.created(self._engine, api, image, job) as name:
                yield api, name

    def _wait(self, api: Any, name: str) -> int:
        message = f"the app's bundle was not built within {self._timeout_s:.0f} s"
        late = AgentError("run.build", message, retryable=True)
        return one_shot.exit_status(api, name, timeout_s=self._timeout_s, late=late)


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
    member.mode, member.uid, member.gid = mode, flower_versions.UID, flower_versions.UID
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
    raise AgentError("run.build", "flwr build succeeded but wrote no bundle", retryable=True)


def _refusal(said: str) -> AgentError:
    words = cause(said, f"{_PLACE}/app")
    return AgentError("run.build", f"flwr build refused the app: {words}", retryable=True)


def _said(api: Any, name: str) -> str:
    """Return the end of a container's output; an app's code may print without end."""
    found = bytearray()
    for chunk in api.logs(name, stream=True):
        found += chunk
        del found[:-SAID_BYTES]
    return found.decode("utf-8", "replace")
