"""Which of an app's dependencies the image that runs apps lacks. Pure.

A program inside the image tells, since only its Python knows what is installed. PEP 508 is read by
``packaging``, or by pip's own copy of it; one of the two is in every image. Python starts with
``-I -S``, so that no ``.pth`` file of a wheel runs; the program finds the packages by itself, as
the module ``site`` does for a virtual environment (PEP 405).
"""

from collections.abc import Iterable, Sequence

from flower_agent.reporting.status import Fact, Mark
from flower_agent.wanted import app_images

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
"""Nodes, or packages, that one sentence names."""

_MOST_LETTERS = 80


def lacking(said: str) -> tuple[str, ...]:
    """Return what the image lacks, from what `PROGRAM` said; nothing where it did not end well."""
    lines = said.splitlines()
    if _DONE not in lines:
        return ()
    return tuple(line.removeprefix(_LACKS) for line in lines if line.startswith(_LACKS))


def on_its_way(app: Fact | None) -> bool:
    """Tell whether the status' fact `app` says that the app's image is fetched for or made.

    What the image in use lacks is no warning then: the VM does something about it.
    """
    return app is not None and app.mark is Mark.WAITING


def compared(
    dependencies: Sequence[str],
    image: str,
    lacks: Sequence[str],
    nodes: Iterable[tuple[str, str | None]],
    *,
    of_context: bool,
) -> tuple[str, ...]:
    """Return what an app, before it is submitted, will find lacking where, in sentences.

    `image` is what the SuperLink's image is pinned by (`images.pin`) and `lacks` what it lacks of
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
    """Return what is to be said of a node's image; empty: nothing, it has all."""
    if published is None:
        return "is unknown: outside the service nobody tells what it has"
    digest, lacking = app_images.read_published(published)
    if digest and digest == image:
        return f"lacks {_some(lacks)}" if lacks else ""
    if not digest or lacking is None or not of_context:
        return "is not known to have what the app wants"
    names = {app_images.name_in(text) for text in wanted}
    known = [name for name in lacking if name in names or name.startswith("+")]
    return f"lacks {_some(known)}" if known else ""


def _some(words: Sequence[str]) -> str:
    """Return the first words, and how many more there are; ``+3`` among them counts three."""
    plain = [word[:_MOST_LETTERS] for word in words if not word.startswith("+")]
    more = sum(int(word[1:]) for word in words if word.startswith("+"))
    more += len(plain[SHOWN:])
    return ", ".join(plain[:SHOWN]) + (f" and {more} more" if more else "")
