"""Where apps' data comes from: what is taken, how it is mounted, what a refusal means."""

import os
import stat
import subprocess
import sys

import pytest

from flower_agent.config import data_source
from flower_agent.config.data_source import DataKind
from flower_agent.docker import containers, data_mounts
from flower_agent.docker.containers import Component, Container, Mount
from flower_agent.host import machine

READ_ONLY = "ro,nosuid,nodev,noexec"


def source(text):
    return data_source.parse_data_source(text)


def mounts(text, known_type="", owner="default"):
    return data_mounts.mounts(source(text), owner, known_type, propagation="rslave")


def options(text, known_type=""):
    (mount,) = mounts(text, known_type)
    return dict(mount.volume)


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ("/srv/data", DataKind.DIRECTORY, "/srv/data"),
        ("/srv/data/", DataKind.DIRECTORY, "/srv/data"),
        ("/var/lib/flower-agent/data", DataKind.DIRECTORY, "/var/lib/flower-agent/data"),
        (
            "/var/lib/flower-agent/data/north",
            DataKind.DIRECTORY,
            "/var/lib/flower-agent/data/north",
        ),
        ("LABEL=data", DataKind.LABEL, "/dev/disk/by-label/data"),
        ("label=my data/1", DataKind.LABEL, "/dev/disk/by-label/my\\x20data\\x2f1"),
        ("LABEL=zürich", DataKind.LABEL, "/dev/disk/by-label/zürich"),
        ("UUID=2d1b-44", DataKind.UUID, "/dev/disk/by-uuid/2d1b-44"),
        ("/dev/vdb1", DataKind.DEVICE, "/dev/vdb1"),
        ("nfs://nas.example.org/export/data", DataKind.NFS, ":/export/data"),
        ("nfs://[fd00::5]:2050/x", DataKind.NFS, ":/x"),
    ],
)
def test_a_source_is_a_directory_a_disk_or_an_export(text, kind, where):
    assert (source(text).kind, source(text).where) == (kind, where)


@pytest.mark.parametrize(
    "text",
    [
        "data",
        "/",
        "//srv",
        "/srv/../etc",
        "/srv//data",
        "/var",
        "/var/lib",
        "/var/lib/flower-agent",
        "/var/lib/flower-agent/tls",
        "/srv,type=ext4",
        "/etc/shadow",
        "/run",
        "/srv:/host",
        "LABEL=",
        "LABEL=x,vers=4",
        "PARTLABEL=x",
        "nfs://nas",
        "nfs://nas/x,type=nfs",
        "nfs://nas/x,ro",
        "nfs:///x",
        "smb://nas/x",
        "/dev/../etc",
        "/srv\n/x",
        "/" + "x" * 300,
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="want a directory"):
        source(text)


def test_a_directory_is_bound():
    assert mounts("/srv/data") == (Mount("/srv/data", "/app/data", propagation="rslave"),)


def test_a_disk_is_a_volume_of_the_type_that_is_known():
    found = options("LABEL=data", "xfs")
    assert found == {"device": "/dev/disk/by-label/data", "o": READ_ONLY, "type": "xfs"}
    assert options("LABEL=data,type=btrfs", "xfs")["type"] == "btrfs"
    assert options("/dev/vdb", "ntfs")["type"] == "ntfs3"


def test_the_types_are_tried_where_none_is_known():
    assert [dict(mount.volume)["type"] for mount in mounts("UUID=1")] == list(data_mounts.TYPES)


def test_an_export_is_mounted_so_that_it_cannot_hang_docker():
    found = options("nfs://nas.example.org/export")
    assert found == {
        "device": ":/export",
        "o": f"addr=nas.example.org,nfsvers=4,soft,timeo=50,retrans=2,{READ_ONLY}",
        "type": "nfs",
    }
    assert (
        "addr=fd00::5,nfsvers=3,port=2050,nolock," in options("nfs://[fd00::5]:2050/x,vers=3")["o"]
    )


def test_a_volume_is_named_for_its_agent_and_its_options():
    names = {mount.source for mount in mounts("UUID=1")} | {mounts("UUID=2", "ext4")[0].source}
    assert len(names) == len(data_mounts.TYPES) + 1
    assert all(name.startswith("flower-agent-default-data-") for name in names)
    assert mounts("UUID=1", "xfs", owner="one")[0].source.startswith("flower-agent-one-data-")


def test_other_options_are_another_container_and_a_bind_mount_is_as_it_was():
    def fingerprint(mount):
        made = Container(name="x", part=Component.SUPEREXEC, image="i", command=(), mounts=(mount,))
        return made.fingerprint

    assert fingerprint(mounts("UUID=1", "xfs")[0]) != fingerprint(mounts("UUID=1", "ext4")[0])
    assert "volume" not in containers._spec(Mount("/srv", "/app/data"))


IN_DOCKERS_WORDS = "Docker refused to mount the data: error while mounting volume '/v/_data': "
FAILED = f"{IN_DOCKERS_WORDS}failed to mount local volume: mount /dev/vdb:/v/_data, flags: 0xf: "


@pytest.mark.parametrize(
    ("text", "reason", "code", "words"),
    [
        (
            "/srv/x",
            'invalid mount config for type "bind": bind source path does not exist: /srv/x',
            "data.missing",
            "which does not exist",
        ),
        ("LABEL=x", f"{FAILED}no such file or directory", "data.missing", "no such disk"),
        ("LABEL=x", f"{FAILED}invalid argument", "data.filesystem", "has no ext4 file system"),
        ("LABEL=x", f"{FAILED}no such device", "data.filesystem", "kernel does not support ext4"),
        ("LABEL=x", f"{FAILED}device or resource busy", "data.refused", "in use"),
        ("/dev/null", f"{FAILED}block device required", "data.refused", "block device required"),
        (
            "nfs://nas/x",
            f"{FAILED}no such device",
            "data.filesystem",
            "kernel does not support nfs",
        ),
        ("nfs://nas/x", f"{FAILED}no such file or directory", "data.missing", "does not export"),
        ("nfs://nas/x", f"{FAILED}connection refused", "data.missing", "nas does not answer"),
        ("nfs://nas/x", f"{FAILED}permission denied", "data.refused", "permission denied"),
        (
            "nfs://nas/x",
            f"{IN_DOCKERS_WORDS}error resolving passed in network volume address: no such host",
            "data.missing",
            "nas does not answer: no such host",
        ),
    ],
)
def test_what_docker_refuses_is_named_with_the_variable(text, reason, code, words):
    found = data_mounts.refusal(source(text), mounts(text, "ext4")[0], reason)
    assert found.code == code
    assert found.message.startswith(f"FLOWER_DATA is {text}")
    assert words in found.message


def test_a_kernel_without_nfs_is_told_its_package():
    found = data_mounts.refusal(
        source("nfs://nas/x"), mounts("nfs://nas/x")[0], f"{FAILED}no such device"
    )
    assert "nfs-common" in found.hint


@pytest.mark.parametrize(
    ("said", "words", "code"),
    [
        ("data 0 0\n", "empty", None),
        ("data 12 0\n", "12 entries", None),
        ("data 12 2\n", "12 entries, 2 of them unreadable", None),
        ("data 1000 0\n", "at least 1000 entries", None),
        ("data 3 3\n", "", "data.unreadable"),
        ("refused Permission denied\n", "", "data.unreadable"),
        ("refused Not a directory\n", "", "data.refused"),
        ("", "", "data.unreadable"),
    ],
)
def test_a_look_tells_whether_apps_can_read(said, words, code):
    shown, wrong = data_mounts.judge(source("/srv/x"), said)
    assert (shown, wrong.code if wrong else None) == (words, code)


def test_the_look_counts_what_its_user_may_not_read(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "lost+found").mkdir(mode=0)
    program = data_mounts.PROGRAM.replace("'/app/data'", repr(str(tmp_path)))
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=True)
    assert done.stdout == b"data 1 0\n"
    program = data_mounts.PROGRAM.replace("'/app/data'", repr(str(tmp_path / "a")))
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=True)
    assert done.stdout == b"refused Not a directory\n"


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "closed"),
    [
        (0o755, 0, 0, False),
        (0o750, 0, 0, True),
        (0o750, 0, 49999, False),
        (0o700, 49999, 0, False),
        (0o751, 0, 0, True),
        (0o077, 49999, 0, True),
    ],
)
def test_a_mode_that_keeps_apps_out_is_seen(mode, uid, gid, closed):
    assert data_mounts.closed_by_mode(stat.S_IFDIR | mode, uid, gid) is closed


def test_udev_says_the_type_of_a_disk(tmp_path, monkeypatch):
    class Device:
        st_mode, st_rdev = stat.S_IFBLK | 0o600, os.makedev(253, 16)

    assert machine.file_system(str(tmp_path / "nothing"), tmp_path) == ""
    assert machine.file_system(str(tmp_path), tmp_path) == ""
    monkeypatch.setattr(machine.pathlib.Path, "stat", lambda _: Device)
    assert machine.file_system("/dev/vdb", tmp_path) == ""
    properties = "S:disk/by-label/x\nE:ID_FS_LABEL=x\nE:ID_FS_TYPE=xfs\nE:ID_FS_USAGE=filesystem"
    (tmp_path / "b253:16").write_text(f"{properties}\n")
    assert machine.file_system("/dev/vdb", tmp_path) == "xfs"
