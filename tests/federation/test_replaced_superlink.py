"""OneFlow makes another SuperLink VM: with the disk of FLOWER_STATE_DISK the federation heals.

The disk is a loop device; flower-state.service's program mounts it at the root of each VM.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess

import pytest
import state_disks
from federation import SERVICE
from watched import WatchedFederation, docker, wait_for

from flower_agent.commands import state_disk
from flower_agent.paths import Paths

pytestmark = [pytest.mark.engine, pytest.mark.federation]

LIGHT = {"FLOWER_ISOLATION": "subprocess", "ML_FRAMEWORK": ""}
SIZE_BYTES = 256 << 20
BACK_S = 120.0
NEXT_VMID = 91


class HealingFederation(WatchedFederation):
    """A federation whose SuperLink has its state on a disk."""

    def boot_superlink(self, disk):
        """Do what OneFlow and the units do: the disk is mounted before the agent starts."""
        variables = {**self.superlink.variables, "FLOWER_STATE_DISK": disk}
        self.superlink = dataclasses.replace(self.superlink, variables=variables)
        self.write_context(self.superlink, variables)
        assert state_disk.main(Paths(self.superlink.root)) == 0
        self.deploy(self.superlink)

    def lose_superlink(self):
        """End it as a host that dies: nothing is told to anybody."""
        self.stop_agent(self.superlink, signal.SIGKILL)
        docker("rm", "-f", f"{self.superlink.prefix}-flower-superlink")
        unmount(self.superlink)
        self.cloud.remove_vm(self.superlink.vmid)

    def replace_superlink(self, disk):
        """Create the VM that OneFlow creates: another number, another name, nothing of the old."""
        self.superlink = dataclasses.replace(
            self.superlink,
            vmid=NEXT_VMID,
            name=f"superlink_1_(service_{SERVICE})",
            root=self.directory / "superlink-next",
        )
        self.boot_superlink(disk)


def unmount(machine):
    subprocess.run(["umount", Paths(machine.root).state], check=True)


@pytest.fixture
def disk(tmp_path, missing):
    if os.getuid() != 0 or shutil.which("losetup") is None:
        missing("loop devices need root and losetup")
    image = tmp_path / "state.img"
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    losetup = ["losetup", "--find", "--show", image]
    with state_disks.alone():
        device = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()
        yield device
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def federation(disk, tmp_path, images):
    made = HealingFederation(
        tmp_path / "f",
        name="fheal",
        base_port=21800,
        variables=LIGHT,
        environment={"FLOWER_AGENT_TIME_SCALE": "0.2"},
        say=lambda _: None,
    )
    try:
        made.start_onegate()
        made.boot_superlink(disk)
        made.wait_ready(made.superlink)
        for machine in made.supernodes:
            made.deploy(machine)
        for machine in made.supernodes:
            made.wait_ready(machine)
        yield made
    finally:
        made.down()
        with contextlib.suppress(subprocess.CalledProcessError):
            unmount(made.superlink)


def fingerprint(federation):
    return federation.status(federation.superlink)["ca_fingerprint"]


def node_ids(federation):
    return [federation.status(machine)["node_id"] for machine in federation.supernodes]


def connected(federation):
    states = [federation.status(machine).get("state") for machine in federation.supernodes]
    return states == ["ready", "ready"] and federation.status(federation.superlink)["nodes"] == 2


def test_nobody_does_anything_and_the_nodes_are_back_with_their_ids(federation, disk):
    ca, ids = fingerprint(federation), node_ids(federation)
    assert all(ids)
    federation.lose_superlink()
    for machine in federation.supernodes:
        wait_for(lambda m=machine: federation.status(m).get("state") == "degraded", "a lost peer")
    federation.replace_superlink(disk)
    federation.wait_ready(federation.superlink)
    wait_for(lambda: connected(federation), "both nodes", BACK_S)
    assert (fingerprint(federation), node_ids(federation)) == (ca, ids)
    codes = {found["code"] for found in federation.status(federation.superlink)["warnings"]}
    assert not {"state.other_vm", "trust.nodes_refuse"} & codes
    assert "tls.ca_changed" not in "".join(map(federation.log, federation.supernodes))
    assert not pathlib.Path(federation.directory / "superlink/var/lib/flower-agent/tls").exists()
