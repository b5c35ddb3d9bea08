"""The disk is full, read-only, or the database's directory takes nothing.

The VM's directories are tmpfs of the test's own, small enough to be filled.
"""

import contextlib
import datetime
import subprocess

import pytest
from vms import (
    SUBPROCESS,
    calm,
    error,
    ids,
    pair,
    published,
    ready,
    restart,
    said,
    says,
    state,
    state_file,
    warns,
)
from watched import wait_for

from flower_agent.tls import certificates

pytestmark = [pytest.mark.engine, pytest.mark.federation]

SCALE = 0.1


class Disk:
    """A small filesystem of its own at a VM's directory."""

    def __init__(self, path, size="16m"):
        self.path = path
        self._filler = path / "filler"
        path.mkdir(parents=True, mode=0o755)
        mount("-t", "tmpfs", "-o", f"size={size},mode=0755", "disk", str(path))

    def fill(self):
        """Take every byte that is left."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)

    def free(self):
        self._filler.unlink()

    def forbid(self):
        mount("-o", "remount,ro", str(self.path))

    def allow(self):
        mount("-o", "remount,rw", str(self.path))

    def files(self):
        """Return what lies there, without the filler."""
        found = (path for path in self.path.rglob("*") if path.is_file())
        return {str(path.relative_to(self.path)) for path in found} - {"filler"}

    def close(self):
        subprocess.run(["umount", "-l", self.path], check=True, timeout=30)


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True, timeout=30)


@pytest.fixture
def disk():
    """Makes disks, which go at the end."""
    made = []

    def make(path, size="16m"):
        made.append(Disk(path, size))
        return made[-1]

    yield make
    for each in reversed(made):
        each.close()


@pytest.fixture
def vm(disk, lone):
    """Makes a SuperLink's VM without an agent, and the disk of its state."""

    def make(base_port, name, **variables):
        federation = lone(base_port, name, SCALE, **SUBPROCESS, **variables)
        link = federation.superlink
        return federation, link, disk(link.root / "var/lib/flower-agent")

    return make


def leaf(machine):
    return certificates.inspect(state_file(machine, "tls/server.pem").read_text())


BREAK = {
    "full": (Disk.fill, Disk.free),
    "read-only": (Disk.forbid, Disk.allow),
}
broken = pytest.mark.parametrize("fault", BREAK)


@broken
def test_a_superlink_that_cannot_write_its_certificates_starts_nothing_until_it_can(vm, fault):
    spoil, mend = BREAK[fault]
    federation, link, state_disk = vm(27000, "fs-first")
    spoil(state_disk)
    federation.deploy(link)
    says(federation, link, "state.unwritable")
    told = federation.status(link)["error"]["message"]
    assert str(state_disk.path) in told
    assert ("No space left" in told) or ("Read-only" in told)
    wait_for(lambda: "state.unwritable" in published(federation, link, "FLOWER_ERROR"), "told")
    assert ids(link)["superlink"] == ""
    assert not federation.cloud.gate_open(link.vmid)
    assert state_disk.files() == set()  # nothing is half-written
    mend(state_disk)
    ready(federation, link)
    assert error(federation, link) is None


@broken
def test_a_disk_that_fails_under_a_ready_federation_stops_nothing(disk, lone, fault):
    spoil, mend = BREAK[fault]
    federation = lone(27060, "fs-later", SCALE, **SUBPROCESS)
    link, node = federation.superlink, federation.supernodes[0]
    disks = [disk(m.root / "var/lib/flower-agent") for m in (link, node)]
    database = disk(state_file(link, "superlink"))
    database.path.chmod(0o770)
    pair(federation)
    for machine in (link, node):  # the last file that a start writes
        seam = state_file(machine, "runs/live/launches.json")
        wait_for(seam.exists, f"{machine.name}: {seam.name}")
    before = ids(link), ids(node)
    held = leaf(link)
    files = [each.files() for each in disks]
    for each in disks:
        spoil(each)
    # The SuperLink shall hold a certificate for one more name, and has no room for it.
    wanted = {**link.variables, "FLOWER_TLS_SANS": "other.example"}
    federation.write_context(link, wanted)
    says(federation, link, "state.unwritable")
    assert (ids(link), ids(node)) == before
    assert [each.files() for each in disks] == files
    assert leaf(link).fingerprint == held.fingerprint
    for machine in (link, node):  # what starts now has to do with what lies there
        restart(federation, machine)
    says(federation, link, "state.unwritable")
    ready(federation, node)
    assert (ids(link), ids(node)) == before
    for each in disks:
        mend(each)
    ready(federation, link)
    assert "other.example" in leaf(link).names
    ready(federation, node)
    calm(federation, node)


def test_a_record_that_cannot_be_kept_is_a_warning_and_no_more(disk, lone):
    federation = lone(27120, "fs-record", SCALE, **SUBPROCESS)
    link, node = pair(federation)
    federation.stop_agent(node)
    state_file(node, "state.json").unlink()
    state_file(node, "state.json").mkdir()  # cannot be replaced by a file
    before = ids(node)
    federation.start_agent(node)
    ready(federation, node)
    warns(federation, node, "state.unwritable")
    state_file(node, "state.json").rmdir()
    calm(federation, node)
    assert state_file(node, "state.json").is_file()
    assert ids(node) == before
    assert state(federation, link) == "ready"


def test_a_status_that_cannot_be_written_keeps_nothing_from_working(disk, lone):
    federation = lone(27180, "fs-run", SCALE, **SUBPROCESS)
    link = federation.superlink
    run = disk(link.root / "run/flower-agent", "64k")
    federation.deploy(link)
    federation.wait_ready(link)
    run.fill()
    before, told = federation.status(link)["written_at"], ids(link)
    federation.write_context(link, {**link.variables, "FLOWER_LOG_LEVEL": "DEBUG"})
    wait_for(lambda: ids(link) != told and ids(link)["superlink"], "the new container")
    wait_for(
        lambda: (
            federation.log(link).count('"event": "state.ready"') > 1
            and published(federation, link, "READY") == "YES"
        ),
        "ready anew, at OneGate too",
    )
    assert said(federation, link, "status.unwritable") == 1
    assert federation.status(link)["written_at"] == before
    run.free()
    wait_for(lambda: moment(federation, link) > datetime.datetime.fromisoformat(before), "anew")
    ready(federation, link)


def moment(federation, machine):
    return datetime.datetime.fromisoformat(federation.status(machine)["written_at"])


@pytest.mark.parametrize(
    ("fault", "code"), [("full", "control.database"), ("read-only", "state.unwritable")]
)
def test_a_superlink_whose_database_takes_nothing_serves_and_is_not_ready_until_it_does(
    disk, lone, fault, code
):
    federation = lone(27240, "fs-base", SCALE, **SUBPROCESS)
    link = federation.superlink
    database = disk(state_file(link, "superlink"))
    database.path.chmod(0o770)
    BREAK[fault][0](database)
    federation.deploy(link)
    says(federation, link, code)
    assert not federation.cloud.gate_open(link.vmid)
    BREAK[fault][1](database)
    federation.wait_ready(link)


def test_a_database_that_cannot_grow_under_a_ready_superlink_is_found(disk, lone):
    federation = lone(27300, "fs-grown", SCALE, **SUBPROCESS)
    link, node = federation.superlink, federation.supernodes[0]
    database = disk(state_file(link, "superlink"))
    database.path.chmod(0o770)
    federation.deploy(link)
    federation.wait_ready(link)
    before = ids(link)
    database.fill()
    federation.deploy(node)
    says(federation, link, "control.database")
    assert state(federation, link) == "degraded"
    database.free()
    for machine in (link, node):
        federation.wait_ready(machine)
    assert ids(link) == before
