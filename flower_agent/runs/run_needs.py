"""Which of an app's dependencies the image that runs apps lacks. Pure.

A program inside the image tells, since only its Python knows what is installed. PEP 508 is read by
``packaging``, or by pip's own copy of it; one of the two is in every image. Python starts with
``-I -S``, so that no ``.pth`` file of a wheel runs; the program finds the packages by itself, as
the module ``site`` does for a virtual environment (PEP 405).
"""

from flower_agent.reporting.status import Fact, Mark

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
