"""Make an image of this machine's own distribution, with Python, from the mirror that apt uses.

`debootstrap --variant=minbase` makes the tree and `docker import` the image. The mirror and the
proxy are asked of apt at run time (apt-get indextargets, apt-config: their man pages).
"""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile

from programs import STEP_S, BuildError, apt_install, call, present, step


def ensure(work: pathlib.Path, label: str, *, force: bool) -> str:
    """Return the image of this machine's distribution; make it in `work` if absent."""
    facts = shell_assignments(pathlib.Path("/etc/os-release").read_text(encoding="utf-8"))
    codename = facts.get("VERSION_CODENAME", "")
    image = f"flower-agent/system:{codename}"
    if not force and present(image):
        return image
    if not codename or not shutil.which("apt-get"):
        raise BuildError("stand-ins can be built on Debian and Ubuntu only: pull the images")
    if os.getuid() != 0:
        raise BuildError("debootstrap needs root: run this as root")
    if not shutil.which("debootstrap"):
        apt_install("debootstrap")
    mirror = find_mirror(facts["ID"], codename)
    with tempfile.TemporaryDirectory(dir=work, prefix="system-") as tree:
        with step(f"bootstrapping {codename}"):
            bootstrap(codename, tree, mirror)
        with step(f"importing {image}"):
            import_tree(tree, image, label)
    return image


def bootstrap(codename: str, tree: str, mirror: str) -> None:
    """Fill the tree.

    In name spaces of its own, debootstrap leaves neither mounts nor children when it is killed.
    """
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "debootstrap"]
    command += ["--variant=minbase", "--include=ca-certificates,libsqlite3-0,python3"]
    call([*command, codename, tree, mirror], environment=apt_proxy())


def import_tree(tree: str, image: str, label: str) -> None:
    """Import the tree as an image; it gets its tag only once it is known to be whole."""
    leave_out = ("var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*", "dev/*", "proc/*", "sys/*")
    pack = ["tar", "-C", tree, *(f"--exclude=./{path}" for path in leave_out), "-c", "."]
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as tar:
        done = subprocess.run(
            ["docker", "import", "--change", f"LABEL {label}", "-"],
            stdin=tar.stdout,
            capture_output=True,
            text=True,
            check=False,
            timeout=STEP_S,
        )
    if tar.returncode or done.returncode:
        raise BuildError(f"the tree could not be imported (disk full?): {done.stderr.strip()}")
    call(["docker", "tag", done.stdout.strip(), image])


def find_mirror(distribution: str, codename: str) -> str:
    """Return the mirror from which apt takes the distribution's main component."""
    for refresh in (False, True):
        if refresh:
            with step("apt-get update"):
                # A third party's broken source fails it, too; what matters is looked at below.
                call(["apt-get", "update"], check=False)
        layout = "$(SITE)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
        listing = call(["apt-get", "indextargets", "--format", layout, "Created-By: Packages"])
        for line in listing.stdout.splitlines():
            site, suite, component, origin = line.split("|")
            if (suite, component, origin.lower()) == (codename, "main", distribution):
                return first_of_list(site)
    raise BuildError(f"apt knows no source of {codename} main: add one, then run apt-get update")


def first_of_list(site: str) -> str:
    """Return the site itself, or the first of the file behind apt's `mirror+file:` method."""
    if not site.startswith("mirror+file:"):
        return site
    listed = pathlib.Path(site.removeprefix("mirror+file:")).read_text(encoding="utf-8")
    return listed.split()[0]


def apt_proxy() -> dict[str, str]:
    """Return apt's own HTTP proxy as the environment that debootstrap's wget reads."""
    answer = call(["apt-config", "shell", "http_proxy", "Acquire::http::Proxy"])
    return shell_assignments(answer.stdout)


def shell_assignments(text: str) -> dict[str, str]:
    """Read NAME=value lines with shell quoting."""
    return dict(word.split("=", 1) for word in shlex.split(text, comments=True) if "=" in word)
