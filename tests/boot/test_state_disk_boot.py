"""A SuperLink's state on a disk that outlives its VM: a loop device of this machine.

The agent in its unit sees the mount of flower-state.service, at boot and when it comes later. No
image of Flower is needed: the agent makes its CA before it pulls one.
"""

import json
import os
import subprocess

import pytest
import tree
import vm

ADDRESS = "10.79.0.10"
SIZE_BYTES = 256 << 20
CA = "/var/lib/flower-agent/tls/ca/ca.pem"
RESULT = "/run/flower-agent-state/disk.json"


@pytest.fixture
def network(missing):
    """A network with one address and the default route."""
    if os.getuid() != 0:
        missing("booting needs root")
    name = f"flower-state-{os.getpid()}"
    tree.call("ip", "netns", "add", name)
    for words in (
        "link set lo up", "link add eth0 type bridge", f"address add {ADDRESS}/24 dev eth0",
        "link set eth0 up", "route add default dev eth0",
    ):  # fmt: skip
        tree.call("ip", "-n", name, *words.split())
    yield name
    tree.call("ip", "netns", "delete", name)


@pytest.fixture
def disk(tmp_path):
    """An empty disk; what is on it can be read as a directory once no VM has it."""
    image = tmp_path / "state.img"
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    device = tree.call("losetup", "--find", "--show", image).strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=False)


@pytest.fixture
def create(packages, network, disk, tmp_path):
    """Creates VMs that have the package and the disk, each anew."""
    made, target = packages
    machines = []

    def create_one(vmid):
        found = vm.Vm(f"state-{vmid}", tree.base(target.python), tmp_path, network)
        machines.append(found)
        found.devices = (disk,)
        found.make()
        found.install(made["new"])
        return found

    yield create_one
    for each in machines:
        each.remove()


def context(disk, vmid):
    values = {
        "ETH0_IP": ADDRESS, "FLOWER_ROLE": "server", "FLOWER_STATE_DISK": disk, "VMID": str(vmid),
        "ONEGATE_ENDPOINT": "", "NETWORK": "YES",
    }  # fmt: skip
    return "".join(f"{name}='{value}'\n" for name, value in sorted(values.items()))


def start(machine, disk, vmid):
    machine.write("/context/context.sh", context(disk, vmid), 0o400)
    machine.write("/context/token.txt", "", 0o400)
    machine.boot()
    return wait_for_ca(machine)


def wait_for_ca(machine):
    """Return the CA as soon as the agent has one, and the fact about its disk."""
    vm.wait_for(
        lambda: machine.try_("test", "-s", CA)[0] == 0,
        lambda: machine.journal("-n", "60", "-u", "flower-agent", "-u", "flower-state"),
    )
    facts = vm.wait_for(lambda: facts_of(machine).get("state"), machine.status)
    return machine.run("sha256sum", CA).split()[0], facts


def facts_of(machine):
    return {fact["name"]: fact["detail"] for fact in machine.status().get("facts", [])}


def mounted(machine):
    """Return what is mounted at the state directory: source and file system."""
    return machine.try_("findmnt", "-nro", "SOURCE,FSTYPE", "/var/lib/flower-agent")[1].split()


def test_the_next_vm_of_a_disk_has_the_ca_of_a_vm_that_was_destroyed(create, disk):
    first = create(71)
    ca, where = start(first, disk, 71)
    assert disk in where
    assert mounted(first) == [disk, "ext4"]
    result = json.loads(first.run("cat", RESULT))
    assert (result["outcome"], result["device"]) == ("mounted", disk)
    first.remove()

    second = create(72)
    again, _ = start(second, disk, 72)
    assert again == ca
    assert "is empty" not in second.journal("-u", "flower-state")
    codes = {found["code"] for found in second.status()["warnings"]}
    assert "state.other_vm" not in codes
    second.reboot()
    assert wait_for_ca(second)[0] == ca
    assert second.show("ActiveState", "docker.service") == "active"


def test_a_context_that_comes_late_mounts_the_disk_below_the_agent_that_runs(create, disk):
    machine = create(73)
    tree.call(
        "systemctl", f"--root={machine.root}", "mask", "one-context-local.service",
        "one-context-online.service", "one-context.service",
    )  # fmt: skip
    machine.boot()
    vm.wait_for(machine.status, "a status without a context")
    agent = machine.show("MainPID")
    machine.run("mkdir", "-p", "/run/one-context")
    machine.write("/late.sh", context(disk, 73))
    machine.run("cp", "/late.sh", "/run/one-context/context.sh.network")
    _, where = wait_for_ca(machine)
    assert disk in where
    assert mounted(machine) == [disk, "ext4"]
    # The mount reached the agent's own name space without a restart.
    assert machine.show("MainPID") == agent
    # What it wrote is on the disk, and the directory beneath is empty.
    machine.run("mount", "--bind", "/", "/mnt")
    assert machine.run("ls", "-A", "/mnt/var/lib/flower-agent").split() == []


def test_a_disk_with_something_else_is_refused_and_the_vm_says_so(create, disk):
    tree.call("mkfs.ext4", "-q", "-L", "precious", disk)
    machine = create(74)
    machine.write("/context/context.sh", context(disk, 74), 0o400)
    machine.write("/context/token.txt", "", 0o400)
    machine.boot()
    error = vm.wait_for(lambda: machine.status().get("error"), machine.status)
    assert error["code"] == "state.disk_refused"
    assert "precious" in error["message"]
    assert machine.try_("test", "-e", "/var/lib/flower-agent/tls")[0] != 0
    # The hook of one-context may have it reload at this moment.
    vm.wait_for(lambda: machine.show("ActiveState") == "active", "the agent runs on")
    # Somebody empties it: the service looks again by itself.
    tree.call("wipefs", "-qa", disk)
    tree.call("dd", "if=/dev/zero", f"of={disk}", "bs=1M", "count=256", "status=none")
    assert disk in wait_for_ca(machine)[1]
