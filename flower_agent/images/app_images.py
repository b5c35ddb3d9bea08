"""SuperExec images for one app: the parent image and the app's dependencies. Pure.

What an app declares (``[project] dependencies``, PEP 508) has no hashes; pip resolves it once
against what the parent has, wheels only, and its report (pip: installation report, version 1) is
the lock of this image. Flower itself is not among them: the image has it.

PyPI's torch brings CUDA, which is some GB. Where no GPU is used, the CPU builds of PyTorch's own
index are taken: their local version (``2.8.0+cpu``) is what ``==2.8.0`` wants (PEP 440). That index
is asked for `CPU_NAMES` alone and without dependencies, so that it can serve nothing else.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from flower_agent.docker.image_references import Reference
from flower_agent.flower import frameworks
from flower_agent.flower.frameworks import GIVEN, LOCAL, PLACE, WheelLock
from flower_agent.model.errors import AgentError

REPORT = "report.json"
WANTED = "wanted.txt"
MAX_REPORT_BYTES = 1 << 24

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CPU_NAMES = frozenset({"torch", "torchvision", "torchaudio"})
CPU_WANTED = "cpu.txt"
CONSTRAINTS = "constraints.txt"

_PUBLISHED = 200
"""Characters of FLOWER_APP_IMAGE at most."""

_LACKS, _NOTHING = " lacks ", "-"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PUBLISHED_FORM = re.compile(
    rf"(?P<digest>{_DIGEST.pattern})(?:{_LACKS}"
    r"(?P<names>-|(?:[a-z0-9][a-z0-9-]*;)*(?:[a-z0-9][a-z0-9-]*|\+[0-9]+)))?"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NEED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]* ?(\[[A-Za-z0-9._, -]*\])? ?([<>=!~;(].*)?")


def needed(dependencies: Iterable[str]) -> tuple[str, ...]:
    """Return the requirements beside Flower, sorted. Raises AgentError ``image.framework``."""
    found = sorted({" ".join(text.split()) for text in dependencies})
    for text in found:
        if not _NEED.fullmatch(text) or "@" in text or " -" in text:  # pip takes more in a line
            message = f"the app needs {text!r}: want a name and versions, no address"
            raise AgentError(
                "image.framework", message, "Declare a release of that package in the app."
            )
    return tuple(text for text in found if name_in(text) != "flwr")


def image(parent: str, wanted: tuple[str, ...], *, cuda: bool = False) -> str:
    """Return the reference of the image that has `wanted` beside what `parent` has.

    `cuda`: with builds that compute on a GPU.
    """
    digest = _digest((*wanted, *_variant(cuda=cuda)))
    return f"{LOCAL}superexec:{Reference.parse(parent).tag}-app-{digest[:12]}"


def derives(reference: str, parent: str) -> bool:
    """Return whether an image has what an app needs beside what `parent` has, as its name says."""
    return reference.startswith(f"{LOCAL}superexec:{Reference.parse(parent).tag}-app-")


def made_of(parent: str, wanted: tuple[str, ...], *, cuda: bool = False) -> str:
    """Return ``sha256:…`` of all that makes the image; the versions are chosen when it is made."""
    return f"sha256:{_digest((parent, *wanted, *_variant(cuda=cuda)))}"


def _variant(*, cuda: bool) -> tuple[str, ...]:
    return ("cuda",) if cuda else ()


def resolve(*, constrained: bool = False) -> tuple[str, ...]:
    """Return the command that asks pip which wheels are wanted; it installs nothing.

    `constrained`: with the CPU builds that lie among the wheels.
    """
    more = ("--find-links", f"{PLACE}/wheels", "-c", f"{PLACE}/{CONSTRAINTS}")
    return (
        *("python", "-m", "pip", "install", "--dry-run", "--quiet", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--no-cache-dir", "--retries", "3"),
        *("--find-links", GIVEN, "--report", f"{PLACE}/{REPORT}", "-r", f"{PLACE}/{WANTED}"),
        *(more if constrained else ()),
    )


def fetch_cpu() -> tuple[str, ...]:
    """Return the command that fetches CPU builds from their index: no dependency, no other name."""
    return (
        *("python", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--no-cache-dir", "--retries", "1", "--timeout", "15"),
        *("--dest", f"{PLACE}/wheels", "-r", f"{PLACE}/{CPU_WANTED}"),
    )


def published(digest: str, lacking: Iterable[str] | None) -> str:
    """Return FLOWER_APP_IMAGE: the image's digest, and missing packages of the context's app.

    `digest` is what ``images.lock`` would say of it (`pin`), so that the same image made on
    two VMs reads alike. `lacking` are requirements; None: not known. Of names that do not fit, the
    count stands: ``+3``. OneGate keeps all of it as it is. Empty where there is no such digest.
    """
    if not _DIGEST.fullmatch(digest):
        return ""
    if lacking is None:
        return digest
    names = sorted({name for name in map(name_in, lacking) if name})
    left = _PUBLISHED - len(digest) - len(_LACKS) - len(f";+{len(names)}")
    shown: list[str] = []
    for name in names:
        if len(name) + 1 > left:
            break
        left -= len(name) + 1
        shown.append(name)
    more = [f"+{len(names) - len(shown)}"] if len(shown) < len(names) else []
    return f"{digest}{_LACKS}{';'.join([*shown, *more]) or _NOTHING}"


def read_published(text: str) -> tuple[str, tuple[str, ...] | None]:
    """Return digest and lacking names of a FLOWER_APP_IMAGE, the count ``+N`` of more among them.

    Any VM of the service may write it: empty and None for anything else.
    """
    found = _PUBLISHED_FORM.fullmatch(text) if len(text) <= _PUBLISHED else None
    if found is None:
        return "", None
    names = found["names"]
    if names is None:
        return found["digest"], None
    return found["digest"], () if names == _NOTHING else tuple(names.split(";"))


def with_cuda(report: bytes) -> tuple[str, ...]:
    """Return what pip would install and the CPU's index may have, each as ``NAME==VERSION``.

    Raises ValueError for no report of pip.
    """
    rows = [(_normal(row["metadata"]["name"]), row["metadata"]["version"]) for row in _rows(report)]
    return tuple(
        f"{name}=={version}" for name, version in sorted(rows)
        if name in CPU_NAMES and "+" not in version
    )  # fmt: skip


def cpu_builds(wanted: Iterable[str], wheels: Iterable[str]) -> tuple[str, ...]:
    """Return the local version of each `wanted` among the files `wheels`, as ``NAME==VERSION``.

    Empty where one of them is not there.
    """
    files = sorted(wheels)
    found = []
    for each in wanted:
        name, _, version = each.partition("==")
        start = f"{name}-{version}+"
        local = next((file.split("-")[1] for file in files if file.startswith(start)), "")
        if not local:
            return ()
        found.append(f"{name}=={local}")
    return tuple(found)


def lock(
    report: bytes,
    sizes: Mapping[str, int] | None = None,
    *,
    cpu: Iterable[str] = (),
    index: str = "",
) -> WheelLock:
    """Return what pip would install, with `sizes` by address; `cpu` are the builds of `index`.

    Raises ValueError for no report of pip, AgentError ``image.framework`` where another Flower is
    among it.
    """
    apart, known = set(cpu), sizes or {}
    lines: tuple[list[str], list[str]] = ([], [])
    try:
        for row in _rows(report):
            name, version = _normal(row["metadata"]["name"]), row["metadata"]["version"]
            if name == "flwr":
                message = "the app's dependencies would change Flower itself"
                hint = "Change the app's dependencies to fit FLOWER_VERSION."
                raise AgentError("image.framework", message, hint)
            came = row["download_info"]
            sha256, size = came["archive_info"]["hashes"]["sha256"], known.get(came.get("url"), 0)
            line = f"{name}=={version} --hash=sha256:{sha256}  # {size} bytes\n"
            lines[f"{name}=={version}" in apart].append(line)
    except (KeyError, TypeError) as error:
        raise ValueError(f"want pip's installation report: no {error}") from error
    own, foreign = map(sorted, lines)
    return frameworks.parse_lock(
        "".join((*own, *((f"# from {index}\n", *foreign) if foreign else ())))
    )


def _rows(report: bytes) -> list[dict[str, Any]]:
    try:
        return list(json.loads(report)["install"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"want pip's installation report: no {error}") from error


def name_in(requirement: str) -> str:
    """Return the name in a requirement as indexes write it; empty where there is none."""
    found = _NAME.match(requirement)
    return _normal(found[0]) if found else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _digest(lines: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
