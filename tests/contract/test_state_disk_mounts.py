"""FLOWER_STATE_DISK on real block devices: what is formatted, mounted, and never touched.

Each VM has a root of its own; its disks are loop devices, its mounts those of this machine.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
import state_disks

from flower_agent.agent.state_mount import StateMount, read_result
from flower_agent.commands import state_disk as program
from flower_agent.config.parsing import parse
from flower_agent.host.state_disk import DiskOutcome
from flower_agent.paths import Paths

SIZE_BYTES = 128 << 20
PROGRAMS = ("losetup", "lsblk", "blkid", "mkfs.ext4", "mkswap", "mount", "umount")


def call(*command, text=None):
    done = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True, input=text
    )
    return done.stdout.strip()


class SimulatedVm:
    """One boot of a VM: its directory below /run is as new."""

    def __init__(self, root):
        self.paths = Paths(root)
        self.context = {}

    def wants(self, **variables):
        self.context = variables
        folder = self.paths.context
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}='{value}'\n" for name, value in variables.items())
        (folder / "context.sh.local").write_text(lines)
        return self

    def mount(self):
        """Do what flower-state.service does; return its exit code and its result."""
        return program.main(self.paths), read_result(self.paths)

    def agent(self):
        """Return why the agent waits, and its warnings."""
        settings = parse(self.context, {}).settings
        seen = StateMount(self.paths)
        away = seen.check(settings)
        codes = {found.code: found for found in seen.findings(settings)}
        return away and away.finding.code, codes

    @property
    def ca(self):
        return self.paths.tls / "ca/ca.pem"

    def make_ca(self, text):
        self.ca.parent.mkdir(parents=True, exist_ok=True)
        self.ca.write_text(text)

    def off(self):
        """Switch it off."""
        with contextlib.suppress(subprocess.CalledProcessError):
            call("umount", self.paths.state)
        shutil.rmtree(self.paths.root / "run", ignore_errors=True)


@pytest.fixture(autouse=True)
def umask():
    """The program sets its own, which is the whole process's."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def vm(tmp_path, missing):
    if os.getuid() != 0:
        missing("mounting needs root")
    for name in PROGRAMS:
        if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            missing(f"no {name} on this machine")
    made = []

    def make(name="vm"):
        made.append(SimulatedVm(tmp_path / name))
        return made[-1]

    yield make
    for each in made:
        each.off()


@pytest.fixture
def disk(tmp_path, vm):
    """Makes block devices; with `content` at a place of the disk."""
    made = []
    own = contextlib.ExitStack()
    own.enter_context(state_disks.alone())

    def make(name="disk", size_bytes=SIZE_BYTES, *, content=b"", at=0, options=()):
        image = tmp_path / f"{name}.img"
        with image.open("wb") as file:
            file.truncate(size_bytes)
            file.seek(at)
            file.write(content)
        made.append(call("losetup", "--find", "--show", *options, image))
        return made[-1]

    yield make
    for each in made:
        subprocess.run(["umount", each], check=False, capture_output=True)
        call("losetup", "--detach", each)
    own.close()


def digest(device):
    """Return what is at both ends of a device: a file system would show there."""
    with pathlib.Path(device).open("rb") as file:
        head = file.read(4 << 20)
        file.seek(-(1 << 20), os.SEEK_END)
        return hashlib.sha256(head + file.read()).hexdigest()


def superlink(disk, **more):
    return {"FLOWER_ROLE": "server", "FLOWER_STATE_DISK": disk, **more}


def tags(device):
    lines = call("blkid", "--probe", "--output", "export", device).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_an_empty_disk_gets_a_file_system_and_is_mounted(vm, disk):
    device, machine = disk(), vm()
    code, result = machine.wants(**superlink(device)).mount()
    assert (code, result.outcome, result.device) == (0, DiskOutcome.MOUNTED, device)
    found = tags(device)
    assert (found["LABEL"], found["TYPE"], found["UUID"]) == ("flower-state", "ext4", result.uuid)
    assert machine.paths.state.is_mount()
    assert machine.agent() == (None, {})


def test_the_next_vm_has_the_ca_of_the_one_before(vm, disk):
    device, first, second = disk(), vm("first"), vm("second")
    _, before = first.wants(**superlink(device)).mount()
    first.make_ca("the CA")
    first.off()
    code, result = second.wants(**superlink(device)).mount()
    assert (code, result.outcome, result.uuid) == (0, DiskOutcome.MOUNTED, before.uuid)
    assert second.ca.read_text() == "the CA"
    assert second.agent() == (None, {})


@pytest.mark.parametrize("form", ["LABEL=flower-state", "UUID={uuid}", "{link}"])
def test_the_disk_is_found_by_its_other_names(vm, disk, tmp_path, form):
    device, first, second = disk(), vm("first"), vm("second")
    _, before = first.wants(**superlink(device)).mount()
    first.off()
    link = pathlib.Path("/dev") / f"flower-test-{os.getpid()}"
    link.symlink_to(device)
    try:
        second.wants(**superlink(form.format(uuid=before.uuid, link=link)))
        code, result = second.mount()
    finally:
        link.unlink()
    assert (code, result.outcome, result.device) == (0, DiskOutcome.MOUNTED, device)


def of_somebody_else(device):
    call("mkfs.ext4", "-q", "-L", "data", device)


def partitioned(device):
    call("sfdisk", "-q", device, text="label: gpt\n,\n")


def swap(device):
    call("mkswap", device)


@pytest.mark.parametrize("spoil", [of_somebody_else, partitioned, swap])
def test_a_disk_with_a_signature_is_left_alone(vm, disk, spoil):
    device, machine = disk(), vm()
    spoil(device)
    before = digest(device)
    code, result = machine.wants(**superlink(device)).mount()
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.REFUSED)
    assert digest(device) == before
    assert not machine.paths.state.is_mount()
    assert machine.agent()[0] == "state.disk_refused"


@pytest.mark.parametrize("at", [0, 4096, SIZE_BYTES - 512])
def test_a_disk_with_data_of_an_unknown_kind_is_left_alone(vm, disk, at):
    device, machine = disk(content=os.urandom(512), at=at), vm()
    before = digest(device)
    code, result = machine.wants(**superlink(device)).mount()
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.REFUSED)
    assert "unknown kind" in result.message
    assert digest(device) == before


def test_a_disk_of_somebody_else_may_be_named_by_its_uuid(vm, disk):
    device, machine = disk(), vm()
    of_somebody_else(device)
    code, result = machine.wants(**superlink(f"UUID={tags(device)['UUID']}")).mount()
    assert (code, result.outcome, tags(device)["LABEL"]) == (0, DiskOutcome.MOUNTED, "data")


def test_a_mounted_disk_is_refused(vm, disk, tmp_path):
    device, machine = disk(), vm()
    call("mkfs.ext4", "-q", "-L", "flower-state", device)
    place = tmp_path / "elsewhere"
    place.mkdir()
    call("mount", device, place)
    code, result = machine.wants(**superlink(device)).mount()
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.REFUSED)
    assert str(place) in result.message


def test_an_empty_disk_that_a_program_holds_is_refused(vm, disk):
    device, machine = disk(), vm()
    held = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        code, result = machine.wants(**superlink(device)).mount()
    finally:
        os.close(held)
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.REFUSED)
    assert "in use by the kernel" in result.message


def test_a_read_only_disk_is_refused(vm, disk):
    device, machine = disk(options=("--read-only",)), vm()
    code, result = machine.wants(**superlink(device)).mount()
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.REFUSED)
    assert "read-only" in result.message


def test_two_disks_of_the_same_label_are_refused(vm, disk):
    machine = vm()
    for name in ("one", "two"):
        call("mkfs.ext4", "-q", "-L", "flower-state", disk(name))
    code, result = machine.wants(**superlink("LABEL=flower-state")).mount()
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.REFUSED)


def test_a_disk_that_comes_later_is_mounted_then(vm, disk):
    machine = vm()
    link = pathlib.Path("/dev") / f"flower-test-{os.getpid()}"
    code, result = machine.wants(**superlink(str(link))).mount()
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.MISSING)
    assert machine.agent()[0] == "state.disk_missing"
    assert not machine.paths.state.exists()
    link.symlink_to(disk())
    try:
        code, result = machine.mount()
    finally:
        link.unlink()
    assert (code, result.outcome) == (0, DiskOutcome.MOUNTED)
    assert machine.agent() == (None, {})


def test_an_empty_disk_is_left_alone_where_another_has_the_state(vm, disk):
    first, second, machine = disk("one"), disk("two"), vm()
    machine.wants(**superlink(first)).mount()
    machine.off()
    before = digest(second)
    code, result = machine.wants(**superlink(second)).mount()
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.REFUSED)
    assert first in result.message
    assert digest(second) == before


def test_another_disk_waits_for_a_reboot(vm, disk):
    first, second, machine = disk("one"), disk("two"), vm()
    machine.wants(**superlink(first)).mount()
    call("mkfs.ext4", "-q", "-L", "flower-state", second)
    machine.make_ca("the CA")
    code, result = machine.wants(**superlink(second)).mount()
    assert (code, result.device) == (0, first)
    away, warned = machine.agent()
    assert away is None
    assert f"from {first} to {second}" in warned["state.disk_changed"].message
    machine.off()
    assert machine.wants(**superlink(second)).mount()[1].device == second
    assert not machine.ca.exists()


def test_a_disk_that_is_set_on_a_running_superlink_waits_for_a_reboot(vm, disk):
    machine, device = vm(), disk()
    code, result = machine.wants(FLOWER_ROLE="server").mount()
    assert (code, result.outcome) == (0, DiskOutcome.OWN)
    machine.make_ca("beneath")
    before = digest(device)
    assert machine.wants(**superlink(device)).mount()[0] == 0
    away, warned = machine.agent()
    assert (away, set(warned), digest(device)) == (None, {"state.disk_changed"}, before)
    machine.off()
    machine.wants(**superlink(device)).mount()
    away, warned = machine.agent()
    assert (away, set(warned)) == (None, {"state.beneath_mount"})
    machine.off()
    assert machine.ca.read_text() == "beneath"


def test_an_upgrade_does_not_mount_over_a_superlink_that_runs(vm, disk):
    machine, device = vm(), disk()
    machine.paths.runtime.mkdir(parents=True)
    status = {"role": "superlink", "containers": [{"name": "flower-superlink"}]}
    machine.paths.status.write_text(json.dumps(status))
    code, result = machine.wants(**superlink(device)).mount()
    assert (code, result.outcome) == (0, DiskOutcome.OWN)
    assert set(machine.agent()[1]) == {"state.disk_changed"}


def test_a_disk_that_is_unmounted_by_hand_makes_the_agent_wait(vm, disk):
    machine = vm()
    machine.wants(**superlink(disk())).mount()
    call("umount", machine.paths.state)
    assert machine.agent()[0] == "state.disk_missing"
    assert machine.mount()[0] == 0
    assert machine.agent()[0] is None


def test_a_mount_of_somebody_else_is_not_replaced(vm, disk):
    machine, other = vm(), disk("other")
    call("mkfs.ext4", "-q", other)
    machine.paths.state.mkdir(parents=True)
    call("mount", other, machine.paths.state)
    code, result = machine.wants(**superlink(disk())).mount()
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.REFUSED)


@pytest.mark.parametrize(
    "variables",
    [{"FLOWER_ROLE": "client"}, {"FLOWER_ROLE": "superexec"}, {"FLOWER_ROLE": "x"}, {}],
    ids=str,
)
def test_only_a_superlink_has_a_state_disk(vm, disk, variables):
    device, machine = disk(), vm()
    before = digest(device)
    assert machine.wants(**superlink(device) | {"FLOWER_ROLE": ""} | variables).mount() == (0, None)
    assert digest(device) == before
    assert not machine.paths.state.exists()


def test_without_a_context_nothing_is_decided(vm):
    assert vm().mount() == (0, None)


def test_what_a_failing_program_says_is_in_the_result(vm, disk, tmp_path):
    """Half of the disk is gone, so that only the mount fails."""
    device, machine = disk(), vm()
    call("mkfs.ext4", "-q", "-L", "flower-state", device)
    os.truncate(tmp_path / "disk.img", SIZE_BYTES // 2)
    call("losetup", "--set-capacity", device)
    code, result = machine.wants(**superlink(device)).mount()
    assert (code, result.outcome) == (program.TRY_AGAIN, DiskOutcome.FAILED)
    assert "mount" in result.message
    assert machine.agent()[0] == "state.disk_failed"


def test_the_agent_writes_nothing_before_its_disk_is_there(vm, disk, tmp_path):
    """The daemon itself, without a Docker Engine."""
    machine, device = vm(), disk()
    variables = superlink(device, ETH0_IP="127.0.0.1", VMID="7")
    machine.wants(**variables)
    command = [sys.executable, "-m", "flower_agent", "run", "--root", machine.paths.root]
    environment = os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/no-docker.sock"}
    with subprocess.Popen(
        [*map(str, command), "--name", f"state-{os.getpid()}"],
        env=environment,
        stderr=subprocess.DEVNULL,
    ) as daemon:
        try:
            assert until(machine, lambda s: (s.get("error") or {}).get("code")) == (
                "state.disk_missing"
            )
            assert not machine.paths.state.exists()
            assert machine.mount()[0] == 0
            # The next thing that lacks is Docker.
            assert until(machine, lambda s: s.get("phase") == "docker")
            shown = {each["name"]: each["detail"] for each in read(machine)["facts"]}
            assert device in shown["state"]
        finally:
            daemon.terminate()


def test_the_state_of_the_vm_before_is_no_clone(vm, disk, tmp_path):
    first, second, device = vm("first"), vm("second"), disk()
    first.wants(**superlink(device)).mount()
    first.paths.record.write_text(json.dumps({"schema": 1, "vmid": "6", "pins": {}}))
    first.off()
    second.wants(**superlink(device, ETH0_IP="127.0.0.1", VMID="7")).mount()
    command = [sys.executable, "-m", "flower_agent", "run", "--root", second.paths.root]
    environment = os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/no-docker.sock"}
    with subprocess.Popen(
        [*map(str, command), "--name", f"state-{os.getpid()}"],
        env=environment,
        stderr=subprocess.DEVNULL,
    ) as daemon:
        try:
            until(second, lambda s: s.get("phase") == "docker")
            record = json.loads(second.paths.record.read_text())
            assert record["vmid"] == "7"
            assert "state.other_vm" not in json.dumps(read(second)["warnings"])
        finally:
            daemon.terminate()


def read(machine):
    try:
        return json.loads(machine.paths.status.read_text())
    except (OSError, ValueError):
        return {}


def until(machine, found, timeout_s=30.0):
    end = time.monotonic() + timeout_s
    while not (seen := found(read(machine))):
        assert time.monotonic() < end, read(machine)
        time.sleep(0.1)
    return seen
