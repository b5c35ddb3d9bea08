"""Builds the packages once and unpacks them."""

import pathlib
import platform
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "contrib" / "package"), str(ROOT / "contrib" / "sandbox")]

import assemble  # noqa: E402
import libraries  # noqa: E402
import targets  # noqa: E402


def of_this_machine():
    """Return the target of the distribution that runs the tests; Debian 12 on any other."""
    facts = platform.freedesktop_os_release()
    here = facts["ID"] + facts.get("VERSION_ID", "")
    return next((target for target in targets.TARGETS if target.name == here), targets.TARGETS[0])


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """Builds a package for amd64 into a directory of its own."""
    nfpm = libraries.tool(assemble.CACHE)
    chosen = {target.name: target for target in targets.TARGETS}

    def built(name, source=None, architecture="amd64"):
        out = tmp_path_factory.mktemp("dist")
        return assemble.build(nfpm, chosen[name], architecture, out, source)

    return built


@pytest.fixture(scope="session")
def target():
    return of_this_machine()


@pytest.fixture(scope="session")
def deb(make, target):
    return make(target.name)


@pytest.fixture(scope="session")
def rpm(make):
    return make("el9")


@pytest.fixture(scope="session")
def tree(deb, tmp_path_factory):
    """The files of the deb."""
    target = tmp_path_factory.mktemp("tree")
    subprocess.run(["dpkg-deb", "--extract", deb, target], check=True)
    return target


@pytest.fixture
def program(missing):
    """Returns the path of a program that must be there."""

    def find(name):
        found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if found is None:
            missing(f"no {name}: apt-get install it, or use tests/run")
        return found

    return find
