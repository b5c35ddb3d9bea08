"""What becomes of the disk of FLOWER_STATE_DISK: every refusal, and what the agent waits for."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.config.parsing import parse
from flower_agent.config.state_disk import DiskName, parse_state_disk
from flower_agent.host import state_disk
from flower_agent.host.state_disk import (
    CODES,
    Disk,
    DiskAction,
    DiskDecision,
    DiskOutcome,
    DiskResult,
    DisksSeen,
    MountPoint,
)

VDB = "/dev/vdb"
UUID = "8f9dfb04-e9d9-496b-b4b3-a76b40530288"
ROOT = Disk(
    path="/dev/vda", kind="disk", size_bytes=10 << 30, signature="a partition table (gpt)",
    children=1, busy=True,
)  # fmt: skip
ROOT_PART = Disk(
    path="/dev/vda1", kind="part", size_bytes=9 << 30, usage="filesystem", signature="ext4",
    uuid="1", mounts=("/",), busy=True,
)  # fmt: skip
CONTEXT = Disk(
    path="/dev/sr0", kind="rom", size_bytes=1 << 20, read_only=True, usage="filesystem",
    signature="iso9660", label="CONTEXT", uuid="2",
)  # fmt: skip
SWAP = Disk(
    path="/dev/vdc", kind="disk", size_bytes=1 << 30, usage="other", signature="swap", uuid="3",
)  # fmt: skip
EMPTY = Disk(path=VDB, kind="disk", size_bytes=1 << 30, blank=True)
OURS = Disk(
    path=VDB, kind="disk", size_bytes=1 << 30, usage="filesystem", signature="ext4",
    label="flower-state", uuid=UUID,
)  # fmt: skip
OTHERS = (ROOT, ROOT_PART, CONTEXT)
MOUNTED = DiskResult(
    outcome=DiskOutcome.MOUNTED, wanted=VDB, device=VDB, uuid=UUID, number="252:16"
)
OWN = DiskResult(outcome=DiskOutcome.OWN)
MOUNT = MountPoint("252:16", "/", VDB)


def decide(text, *disks, **more):
    seen = {"disks": (*OTHERS, *disks), "named": text if text.startswith("/dev/") else "", **more}
    return state_disk.decide(parse_state_disk(text), DisksSeen(**seen))


def test_an_empty_whole_disk_is_formatted():
    assert decide(VDB, EMPTY) == DiskDecision(DiskAction.FORMAT, EMPTY)


@pytest.mark.parametrize("text", [VDB, "LABEL=flower-state", f"UUID={UUID.upper()}"])
def test_a_disk_that_was_formatted_is_mounted(text):
    assert decide(text, OURS) == DiskDecision(DiskAction.MOUNT, OURS)


def test_a_partition_with_the_state_is_mounted_too():
    part = dataclasses.replace(OURS, path="/dev/vdb1", kind="part")
    assert decide("/dev/vdb1", part) == DiskDecision(DiskAction.MOUNT, part)


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        ({"mounts": ("/srv",)}, "is in use: /srv"),
        ({"mounts": ("[SWAP]",)}, r"is in use: \[SWAP\]"),
        ({"read_only": True}, "is read-only"),
        ({"signature": "ext4", "usage": "filesystem", "uuid": "9"}, "has ext4"),
        ({"signature": "ext4", "usage": "filesystem", "label": "x", "uuid": "9"}, "with label x"),
        ({"signature": "swap", "usage": "other"}, "has swap"),
        ({"signature": "crypto_LUKS", "usage": "crypto", "uuid": "9"}, "has crypto_LUKS"),
        ({"signature": "LVM2_member", "usage": "raid", "uuid": "9"}, "has LVM2_member"),
        ({"signature": "a partition table (gpt)"}, "has a partition table"),
        ({"signature": "content of several kinds"}, "has content of several kinds"),
        ({"signature": "vfat", "usage": "filesystem", "label": "flower-state"}, "has vfat"),
        ({"kind": "part"}, r"no whole disk \(part\)"),
        ({"kind": "lvm"}, r"no whole disk \(lvm\)"),
        ({"kind": "rom"}, r"no whole disk \(rom\)"),
        ({"children": 1}, "has partitions"),
        ({"busy": True}, "in use by the kernel"),
        ({"blank": False}, "holds data of an unknown kind"),
        ({"size_bytes": 63 << 20}, "has 63 MiB, want at least 64"),
    ],
    ids=str,
)
def test_whatever_may_hold_something_is_refused(disk, reason):
    seen = decide(VDB, dataclasses.replace(EMPTY, **disk))
    assert seen.action is DiskAction.REFUSE
    assert re.search(reason, seen.message)


@pytest.mark.parametrize(
    "change",
    [{"mounts": ("/srv",)}, {"read_only": True}, {"busy": True}, {"children": 1}, {"uuid": ""}],
    ids=str,
)
def test_a_disk_with_the_state_is_refused_while_somebody_uses_it(change):
    assert decide(VDB, dataclasses.replace(OURS, **change)).action is DiskAction.REFUSE


@pytest.mark.parametrize("disk", [ROOT, ROOT_PART, CONTEXT, SWAP], ids=lambda d: d.path)
def test_root_context_and_swap_are_refused_by_every_name(disk):
    for text in (disk.path, f"LABEL={disk.label or 'none'}", f"UUID={disk.uuid or 0}"):
        assert decide(text, SWAP).action in (DiskAction.REFUSE, DiskAction.WAIT)


@pytest.mark.parametrize("text", [VDB, "LABEL=flower-state", "UUID=77"])
def test_a_disk_that_is_not_there_is_waited_for(text):
    seen = decide(text, named="")
    assert (seen.action, seen.disk) == (DiskAction.WAIT, None)
    assert text in seen.message


def test_a_label_or_uuid_never_formats():
    for text in ("LABEL=flower-state", "UUID=77"):
        assert decide(text, EMPTY).action is DiskAction.WAIT


def test_a_label_names_a_file_system_of_somebody_else_too():
    data = dataclasses.replace(OURS, label="data")
    assert decide("LABEL=data", data) == DiskDecision(DiskAction.MOUNT, data)
    refused = decide(VDB, data)
    assert refused.action is DiskAction.REFUSE
    assert f"FLOWER_STATE_DISK=UUID={UUID}" in refused.hint


def test_two_disks_of_one_name_are_refused():
    copy = dataclasses.replace(OURS, path="/dev/vdc")
    for text in ("LABEL=flower-state", f"UUID={UUID}", VDB):
        seen = decide(text, OURS, copy)
        assert seen.action is DiskAction.REFUSE
        assert "/dev/vdb and /dev/vdc" in seen.message


def test_an_empty_disk_is_not_formatted_beside_one_with_the_state():
    moved = dataclasses.replace(OURS, path="/dev/vdc")
    seen = decide(VDB, EMPTY, moved)
    assert seen.action is DiskAction.REFUSE
    assert "FLOWER_STATE_DISK=LABEL=flower-state" in seen.hint


def test_a_mount_that_is_there_is_kept_if_it_is_the_disk():
    assert decide(VDB, OURS, mount=MOUNT) == DiskDecision(DiskAction.KEEP, OURS)
    other = MountPoint("252:32", "/", "/dev/vdc")
    bind = MountPoint("252:16", "/somewhere", VDB)
    for mount in (other, bind):
        assert decide(VDB, OURS, mount=mount).action is DiskAction.REFUSE


@pytest.mark.parametrize("text", [VDB, "/dev/vdc"])
def test_a_mounted_disk_stays_for_the_whole_boot(text):
    assert decide(text, OURS, mount=MOUNT, before=MOUNTED).action is DiskAction.KEEP
    nothing = DisksSeen(mount=MOUNT, before=MOUNTED)
    assert state_disk.decide(None, nothing).action is DiskAction.KEEP


def test_a_disk_that_was_unmounted_by_hand_is_mounted_again_and_no_other():
    assert decide(VDB, OURS, before=MOUNTED).action is DiskAction.MOUNT
    other = dataclasses.replace(OURS, path="/dev/vdc", uuid="9")
    assert decide("/dev/vdc", OURS, other, before=MOUNTED).action is DiskAction.KEEP
    assert state_disk.decide(None, DisksSeen(before=MOUNTED)).action is DiskAction.KEEP


def test_without_the_variable_the_vm_uses_its_own_disk():
    assert state_disk.decide(None, DisksSeen()).action is DiskAction.OWN


@pytest.mark.parametrize("more", [{"before": OWN}, {"serving": True}], ids=str)
def test_nothing_is_mounted_over_a_superlink_that_runs(more):
    assert decide(VDB, EMPTY, **more).action is DiskAction.OWN


@pytest.mark.parametrize("outcome", [DiskOutcome.MISSING, DiskOutcome.REFUSED, DiskOutcome.FAILED])
def test_what_did_not_work_is_tried_again(outcome):
    before = DiskResult(outcome=outcome, wanted="/dev/vdz")
    assert decide(VDB, EMPTY, before=before).action is DiskAction.FORMAT


DISKS = st.builds(
    Disk,
    path=st.sampled_from([VDB, "/dev/vdc"]),
    kind=st.sampled_from(["disk", "part", "loop", "rom", "lvm"]),
    size_bytes=st.integers(0, 1 << 40),
    read_only=st.booleans(),
    mounts=st.lists(st.sampled_from(["/", "[SWAP]"]), max_size=1).map(tuple),
    children=st.integers(0, 1),
    usage=st.sampled_from(["", "filesystem", "crypto"]),
    signature=st.sampled_from(["", "ext4", "swap"]),
    label=st.sampled_from(["", "flower-state", "data"]),
    uuid=st.sampled_from(["", UUID]),
    busy=st.booleans(),
    blank=st.booleans(),
)


@given(st.lists(DISKS, max_size=3), st.sampled_from([VDB, "LABEL=data", f"UUID={UUID}"]))
def test_whatever_is_there_only_an_empty_unused_disk_is_formatted(disks, text):
    seen = decide(text, *disks)
    if seen.action is DiskAction.FORMAT:
        disk = seen.disk
        assert (text, disk.path) == (VDB, VDB)
        assert disk.blank
        used = (disk.signature, disk.mounts, disk.children, disk.busy, disk.read_only)
        assert not any(used)
    if seen.action is DiskAction.MOUNT:
        assert not any((seen.disk.mounts, seen.disk.busy, seen.disk.read_only))


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("/dev/vdb", DiskName.DEVICE, "/dev/vdb"),
        ("/dev/disk/by-id/virtio-a:b", DiskName.DEVICE, "/dev/disk/by-id/virtio-a:b"),
        ("label=fl-1", DiskName.LABEL, "fl-1"),
        ("UUID=AB-12", DiskName.UUID, "ab-12"),
    ],
)
def test_a_disk_has_three_kinds_of_names(text, kind, name):
    found = parse_state_disk(text)
    assert (found.kind, found.name) == (kind, name)


@pytest.mark.parametrize(
    "text",
    ["vdb", "/srv/state", "/dev/../etc", "/dev/", "LABEL=", "LABEL=a b", "UUID=x/y", "nfs://h/e"],
)
def test_anything_else_is_no_disk(text):
    with pytest.raises(ValueError, match="want LABEL"):
        parse_state_disk(text)


def test_only_a_superlink_has_the_setting():
    for role, kept in (("server", True), ("client", False)):
        context = {"FLOWER_ROLE": role, "FLOWER_STATE_DISK": VDB, "FLOWER_SERVER_ADDRESS": "h"}
        context |= {"TLS_ENABLED": "NO"}
        assert (parse(context, {}).settings.state_disk is not None) is kept


WANTED = parse_state_disk(VDB)


@pytest.mark.parametrize(
    ("result", "mount", "code"),
    [
        (None, None, "state.disk_missing"),
        (MOUNTED, None, "state.disk_missing"),
        (MOUNTED, MountPoint("252:1", "/var/lib/flower-agent", "/dev/vda1"), "state.disk_missing"),
        (MOUNTED, MountPoint("252:16", "/somewhere", VDB), "state.disk_missing"),
        (MOUNTED, MOUNT, None),
        (OWN, None, None),
        (
            DiskResult(outcome=DiskOutcome.MISSING, wanted=VDB, message="no"),
            None,
            "state.disk_missing",
        ),
        (
            DiskResult(outcome=DiskOutcome.REFUSED, wanted=VDB, message="no"),
            None,
            "state.disk_refused",
        ),
        (
            DiskResult(outcome=DiskOutcome.FAILED, wanted=VDB, message="no"),
            None,
            "state.disk_failed",
        ),
        (DiskResult(outcome=DiskOutcome.REFUSED, wanted="/dev/vdz"), None, "state.disk_missing"),
    ],
    ids=str,
)
def test_the_agent_waits_until_the_mount_is_seen(result, mount, code):
    away = state_disk.waiting(WANTED, result, mount)
    assert (away and away.finding.code) == code
    if away is not None:
        assert away.retryable is (code != CODES[DiskOutcome.REFUSED])


def test_the_agent_waits_for_nothing_where_no_disk_is_wanted():
    for result in (None, OWN, DiskResult(outcome=DiskOutcome.REFUSED, wanted=VDB, message="no")):
        assert state_disk.waiting(None, result, None) is None
    # It was removed from the context of a SuperLink that runs, and its mount is gone, too.
    assert state_disk.waiting(None, MOUNTED, None) is not None


def test_the_agent_says_what_the_service_found():
    result = DiskResult(
        outcome=DiskOutcome.REFUSED, wanted=VDB, message="it has ext4", hint="Look."
    )
    found = state_disk.waiting(WANTED, result, None).finding
    assert (found.message, found.hint) == ("it has ext4", "Look.")


@pytest.mark.parametrize(
    ("wanted", "result", "codes"),
    [
        (WANTED, None, []),
        (WANTED, MOUNTED, []),
        (None, OWN, []),
        (None, MOUNTED, ["state.disk_changed"]),
        (WANTED, OWN, ["state.disk_changed"]),
        (parse_state_disk("/dev/vdc"), MOUNTED, ["state.disk_changed"]),
        (WANTED, dataclasses.replace(MOUNTED, beneath=True), ["state.beneath_mount"]),
    ],
    ids=str,
)
def test_what_a_reboot_would_change_is_a_warning(wanted, result, codes):
    found = state_disk.warnings(wanted, result)
    assert [each.code for each in found] == codes
    assert {each.severity for each in found} <= {"warning"}


PLACE = "/var/lib/flower-agent"
MOUNTS = """\
22 1 252:1 / / rw - ext4 /dev/vda1 rw
51 22 252:1 /var/lib/flower-agent /var/lib/flower-agent rw shared:1 master:2 - ext4 /dev/vda1 rw
60 22 0:31 / /var/lib/flower-agent/data rw - tmpfs tmpfs rw
"""


def test_a_bind_mount_of_the_directory_is_no_disk():
    """systemd binds StateDirectory= onto itself."""
    found = state_disk.top_mount(MOUNTS, PLACE)
    assert found == MountPoint("252:1", PLACE, "/dev/vda1")
    assert state_disk.waiting(WANTED, MOUNTED, found) is not None


@pytest.mark.parametrize("turned", [False, True])
def test_the_mount_on_top_counts_whatever_the_order_of_the_lines(turned):
    on_top = "71 51 252:16 / /var/lib/flower-agent rw - ext4 /dev/vdb rw\n"
    text = on_top + MOUNTS if turned else MOUNTS + on_top
    assert state_disk.top_mount(text, PLACE) == MOUNT


@pytest.mark.parametrize("text", ["", "nonsense\n", "1 2 3\n", MOUNTS.splitlines()[0]])
def test_nothing_is_mounted(text):
    assert state_disk.top_mount(text, PLACE) is None


@pytest.mark.parametrize("result", [MOUNTED, OWN, dataclasses.replace(MOUNTED, beneath=True)])
def test_a_result_survives_its_file(result):
    assert state_disk.load_result(state_disk.dump_result(result)) == result


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"outcome": "x"}', b'{"outcome": "own", "wanted": 1}', b"[" * 100_000],
    ids=lambda data: data[:20],
)
def test_what_is_no_result_is_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011  # json has its own kind
        state_disk.load_result(data)
