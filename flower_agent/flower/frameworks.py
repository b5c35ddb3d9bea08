"""SuperExec images with a machine learning framework: their names and contents. Pure.

Each derives from Flower's own SuperExec image and adds wheels that are locked by SHA-256, in
``locks/FRAMEWORK-pyX.Y.txt``: a pip requirements file, one wheel for x86-64 a line, sizes as
comments, and ``# from URL`` before what has an index of its own. The locks leave out what Flower's
image brings, so that nothing of Flower changes. ``contrib/images/lock.py`` writes them.
"""

import dataclasses
import hashlib
import re

from flower_agent.docker.image_references import Reference
from flower_agent.model.errors import AgentError, counted

LOCAL = "flower-agent/"
"""Prefix of locally built images; no registry has them."""

PYTHONS = ("3.11", "3.12", "3.13")

MODULES = {"sklearn": "sklearn", "pytorch": "torch", "tensorflow": "tensorflow"}
"""Framework → the module that must be there in the end."""

NAMES = ("sklearn", "pytorch", "pytorch-cuda", "tensorflow", "tensorflow-cuda")
"""The frameworks and their variants; those without `CUDA` compute on the CPU."""

CUDA = "-cuda"

_WHEEL = re.compile(
    r"(?P<name>[a-z0-9.-]+)==(?P<version>\S+) --hash=sha256:[0-9a-f]{64}  # (?P<size>\d+) bytes"
)
_FROM = "# from "
_DIGITS = re.compile(r"(?<!\d)\d++\.\d+")

CHECK_FAILED = 3
"""How `install` ends where the wheels and Flower's image do not fit."""

PLACE, GIVEN = "/mnt", "/media"
"""Where the work lies in the building container, and wheels that the operator has: every base
image has these directories, so that mounting there leaves no trace."""


@dataclasses.dataclass(frozen=True, slots=True)
class WheelIndex:
    """Wheels of one index."""

    index: str
    """Empty: the one that pip is set to."""

    text: str
    """Its lines of the lock."""

    wheels: tuple[tuple[str, int], ...]
    """Name with version, and size in bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class WheelLock:
    """What one derived image adds."""

    text: str
    parts: tuple[WheelIndex, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The wheels, each with its version."""
        return tuple(name for part in self.parts for name, _ in part.wheels)

    @property
    def size_bytes(self) -> int:
        """The wheels together, as they are downloaded."""
        return sum(size for part in self.parts for _, size in part.wheels)

    @property
    def amount(self) -> str:
        """How much that is, in words: ``14 wheels, 212 MB``; what is not known is said."""
        sizes = [size for part in self.parts for _, size in part.wheels]
        unknown = sizes.count(0)
        words = f"{counted(len(sizes), 'wheel')}, {self.size_bytes / 1e6:.0f} MB"
        if unknown == len(sizes):
            return f"{counted(unknown, 'wheel')} of unknown size" if sizes else "0 wheels"
        return f"{words} and {unknown} of unknown size" if unknown else words


def variant(framework: str, *, cuda: bool) -> str:
    """Return the name of a framework's image for this VM; scikit-learn computes on the CPU only."""
    return f"{framework}{CUDA}" if cuda and f"{framework}{CUDA}" in NAMES else framework


def image(release: tuple[int, int, int], name: str) -> str:
    """Return the reference of a derived image."""
    return f"{LOCAL}superexec:{'.'.join(map(str, release))}-{name}"


def module(name: str) -> str:
    """Return the module that a framework's image must have."""
    return MODULES[name.removesuffix(CUDA)]


def split(reference: str) -> tuple[str, str]:
    """Return Flower's version and the framework's name of a derived image."""
    release, _, name = Reference.parse(reference).tag.partition("-")
    return release, name


def lock_name(name: str, python: str) -> str:
    """Return the lock's file; raise AgentError ``image.framework`` where there is none."""
    if name not in NAMES or python not in PYTHONS:
        raise AgentError(
            "image.framework",
            f"there are no wheels of {name} for Python {python}, which Flower's image has",
            f"Use a FLOWER_VERSION whose image has Python {', '.join(PYTHONS)}, or build "
            f"{LOCAL}superexec:VERSION-{name} by hand: docs/images.md",
        )
    return f"{name}-py{python}.txt"


def parse_lock(text: str) -> WheelLock:
    """Return a lock. Raises ValueError for a line that locks nothing."""
    parts = []
    for section in f"{_FROM}\n{text}".split(_FROM)[1:]:
        index, *lines = section.splitlines()
        wanted = [line for line in lines if line and not line.startswith("#")]
        found = [_WHEEL.fullmatch(line) for line in wanted]
        wheels = tuple((f"{m['name']} {m['version']}", int(m["size"])) for m in found if m)
        if len(wheels) != len(wanted):
            raise ValueError(f"want NAME==VERSION --hash=sha256:…  # N bytes: {wanted}")
        if wheels:
            parts.append(WheelIndex(index.strip(), "\n".join((*wanted, "")), wheels))
    return WheelLock(text, tuple(parts))


def made_of(parent: str, lock: WheelLock) -> str:
    """Return ``sha256:…`` of all that makes a derived image: its parent and the wheels' digests.

    Two builds never have the same image ID, so this is what ``images.lock`` pins.
    """
    return "sha256:" + hashlib.sha256(f"{parent}\n{lock.text}".encode()).hexdigest()


def python_of(words: str) -> str:
    """Return the minor version, such as ``3.13``, in what ``python --version`` says."""
    found = _DIGITS.search(words)
    if found is None:
        raise AgentError("image.framework", f"Flower's image has no Python that answers: {words}")
    return found[0]


def pip_conf(index: str, *, cert: bool, proxy: str) -> str:
    """Return the settings of the pip that downloads; in a file, since they may hold a password."""
    rows = [("index-url", index), ("proxy", proxy), ("cert", f"{PLACE}/ca.crt" if cert else "")]
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in rows if value)


def download(part: int) -> tuple[str, ...]:
    """Return the command that fetches the wheels of a part one by one; those there are kept.

    pip saves what it fetched only when it has all, so it is called for each wheel.
    """
    pip = "python -m pip download --disable-pip-version-check --no-cache-dir --no-deps"
    pip += " --require-hashes --only-binary=:all: --retries 3 --timeout 30 -r /tmp/wheel.txt"
    pip += f" --dest {PLACE}/wheels --find-links {PLACE}/wheels --find-links {GIVEN}"
    script = f"""
while read -r line; do
    echo "$line" >/tmp/wheel.txt
    file=$(echo "${{line%% *}}" | sed 's/==/-/; s/-/_/g; s/_\\([^_]*\\)$/-\\1-/')
    if ls {PLACE}/wheels {GIVEN} | grep -qi "^$file"; then
        {pip} --no-index >/dev/null 2>&1 && continue
    fi
    {pip}
done <{PLACE}/part-{part}.txt
"""
    return ("sh", "-ec", script)


def install(module: str) -> tuple[str, ...]:
    """Return the command that installs the wheels without a network, and sees that they work.

    `module` must be there in the end; empty: only Flower must.

    Flower's own dependencies may have come with the image in odd versions; only what the lock
    brings must have what it wants.
    """
    pip = "python -m pip --isolated --disable-pip-version-check"
    script = f"""
if grep -q == {PLACE}/lock.txt; then
    {pip} install --no-index --no-deps --require-hashes --no-cache-dir --compile \\
        --find-links {PLACE}/wheels -r {PLACE}/lock.txt
fi
ours=$(sed -n 's/==.*//p' {PLACE}/lock.txt | paste -sd '|' -)
if {pip} check | grep -E "^($ours) "; then exit {CHECK_FAILED}; fi
python -c 'import flwr.client, flwr.server{f", {module}" if module else ""}'
"""
    return ("sh", "-ec", script)
