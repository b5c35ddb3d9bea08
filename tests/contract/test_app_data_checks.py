"""The data of apps before their container is made, on an Engine in memory."""

import contextlib
import socket

import pytest
import requests
from one_vm import SUPEREXEC, SUPERNODE, Vm, computing
from real_engine import until

from flower_agent.agent import app_data
from flower_agent.config import data_source
from flower_agent.docker import client, data_mounts
from flower_agent.docker.one_shot import DataVolumes
from flower_agent.model.errors import AgentError
from flower_agent.model.lifecycle import Phase
from flower_agent.model.status import Mark


@pytest.fixture
def vm(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with contextlib.closing(Vm(tmp_path, port)) as vm:
        for image in vm.images:
            vm.engine.hold(image)
        yield vm


def waits_for_data(vm, code=None):
    """Turn until the VM waits for its data, for the reason of that code; return the finding."""
    seen = []

    def waits(unmet):
        seen.append(unmet)
        if unmet is None or unmet.phase is not Phase.DATA:
            return False
        return (unmet.finding.code if unmet.finding else None) == code

    vm.settle(waits)
    assert not seen[-1].fatal
    return seen[-1].finding


def data_mount(vm):
    (mount,) = (m for m in computing(vm).mounts if m.target == "/app/data")
    return mount


def test_a_disk_that_is_missing_is_named_and_nothing_starts_until_it_is_there(vm):
    vm.set(FLOWER_DATA="LABEL=flower-data")
    vm.volumes.trouble = "no such file or directory"
    found = waits_for_data(vm, "data.missing")
    assert found.message == "FLOWER_DATA is LABEL=flower-data, and this VM has no such disk"
    assert vm.last.report.conditions["data"].mark is Mark.BAD
    assert vm.engine.kept == {}
    vm.volumes.trouble, vm.volumes.of_type = "", "ext4"
    tries = len(vm.volumes.looked)
    vm.turn()
    assert len(vm.volumes.looked) == tries, "not again at once"
    vm.pass_time(2)
    vm.boot()
    assert vm.turn() is None
    assert vm.last.report.conditions["data"].detail == "LABEL=flower-data (ext4): 3 entries"
    assert dict(data_mount(vm).volume)["device"] == "/dev/disk/by-label/flower-data"


def test_looks_that_fail_come_ever_later(vm):
    vm.set(FLOWER_DATA="/srv/data")
    vm.volumes.trouble = "no space"
    waits_for_data(vm, "data.refused")
    for wait_s in (2, 4, 8):
        tries = len(vm.volumes.looked)
        vm.pass_time(wait_s - 0.5)
        vm.turn()
        assert vm.last.next_s == pytest.approx(0.5)
        assert len(vm.volumes.looked) == tries
        vm.pass_time(0.5)
        vm.settle(lambda _, tries=tries: len(vm.volumes.looked) == tries + 1)
        vm.settle(lambda _: not vm.threads.busy())


def test_the_container_is_not_made_while_the_look_is_under_way(vm):
    vm.volumes.door.clear()
    vm.set(FLOWER_DATA="LABEL=x,type=xfs")
    vm.volumes.of_type = "xfs"
    assert waits_for_data(vm) is None
    assert vm.last.report.conditions["data"].detail == "checks LABEL=x,type=xfs"
    assert vm.engine.kept == {}
    vm.volumes.door.set()
    vm.boot()
    assert vm.turn() is None
    assert len(vm.volumes.looked) == 1


def test_a_changed_source_that_fails_leaves_what_runs(vm):
    vm.boot()
    node, before = vm.engine.kept[SUPERNODE], vm.engine.kept[SUPEREXEC]
    vm.set(FLOWER_DATA="nfs://nas/export")
    vm.volumes.trouble = "connection timed out"
    assert "nas does not answer" in waits_for_data(vm, "data.missing").message
    assert (vm.engine.kept[SUPERNODE], vm.engine.kept[SUPEREXEC]) == (node, before)
    assert vm.last.report.conditions["settings"].mark is Mark.WAITING
    vm.volumes.trouble, vm.volumes.of_type = "", "nfs"
    vm.pass_time(60)
    vm.settle(lambda unmet: unmet is None and vm.engine.kept[SUPEREXEC] is not before)
    assert vm.engine.kept[SUPERNODE] is node
    assert data_mount(vm).volume


def test_the_type_of_a_disk_is_found_by_trying_and_kept(vm):
    vm.set(FLOWER_DATA="/dev/vdb")
    vm.volumes.of_type = "btrfs"
    vm.boot()
    tried = [dict(mount.volume)["type"] for mount, _ in vm.volumes.looked]
    assert tried == ["ext4", "xfs", "btrfs"]
    assert dict(data_mount(vm).volume)["type"] == "btrfs"
    before = vm.engine.kept[SUPEREXEC]
    vm.reboot()
    vm.settle(lambda unmet: unmet is None)
    assert vm.engine.kept[SUPEREXEC] is before, "the restarted agent found the same"


def test_what_udev_says_is_not_tried(vm):
    vm.udev = vm.volumes.of_type = "xfs"
    vm.set(FLOWER_DATA="UUID=12-34")
    vm.boot()
    assert len(vm.volumes.looked) == 1
    assert vm.turn() is None


def test_a_disk_without_a_file_system_is_told_with_what_was_tried(vm):
    vm.set(FLOWER_DATA="/dev/vdb")
    found = waits_for_data(vm, "data.filesystem")
    assert found.message.endswith(f"has no file system of type {', '.join(data_mounts.TYPES)}")


def test_data_that_apps_may_not_read_is_told_with_the_user(vm):
    vm.set(FLOWER_DATA="/srv/data")
    vm.volumes.says = "refused Permission denied\n"
    assert "49999 cannot read it" in waits_for_data(vm, "data.unreadable").message


def test_a_part_that_apps_may_not_read_is_a_warning(vm):
    vm.set(FLOWER_DATA="LABEL=x")
    vm.volumes.says, vm.volumes.of_type = "data 5 2\n", "ext4"
    vm.boot()
    assert vm.turn() is None
    assert [w.code for w in vm.last.report.warnings] == ["data.unreadable"]


def test_an_answer_to_another_question_is_dropped(vm):
    vm.volumes.door.clear()
    vm.volumes.of_type = "xfs"
    vm.set(FLOWER_DATA="LABEL=old,type=xfs")
    waits_for_data(vm)
    vm.set(FLOWER_DATA="LABEL=new,type=xfs")
    vm.turn()
    vm.volumes.door.set()
    vm.boot()
    assert vm.turn() is None
    assert "by-label/new" in dict(data_mount(vm).volume)["device"]
    assert vm.last.report.conditions["data"].detail.startswith("LABEL=new")


def test_what_docker_says_at_the_start_names_the_data_and_it_is_looked_at_anew(vm):
    vm.volumes.of_type = "ext4"
    vm.set(FLOWER_DATA="LABEL=x,type=ext4")
    vm.engine.refuse_start = (
        "error while mounting volume '/v/flower-agent-default-data-1/_data': failed to mount "
        "local volume: mount /dev/disk/by-label/x:/v, flags: 0xf: no such file or directory"
    )
    waits_for_data(vm, "data.missing")
    vm.engine.refuse_start = ""
    looked = len(vm.volumes.looked)
    vm.pass_time(120)
    vm.boot()
    assert vm.turn() is None
    assert len(vm.volumes.looked) > looked


def test_volumes_that_nothing_uses_are_removed_once_after_each_change(vm):
    vm.boot()
    assert vm.turn() is None
    assert until(lambda: vm.volumes.swept == [""])
    vm.volumes.of_type = "ext4"
    vm.set(FLOWER_DATA="LABEL=x,type=ext4")
    vm.settle(lambda unmet: unmet is None and bool(data_mount(vm).volume))
    assert until(lambda: vm.volumes.swept == ["", data_mount(vm).source])
    vm.settle(lambda unmet: unmet is None)
    assert len(vm.volumes.swept) == 2


def test_without_a_setting_nothing_is_looked_at(vm):
    vm.boot()
    assert vm.turn() is None
    assert vm.volumes.looked == []
    assert vm.last.report.conditions["data"].detail == str(vm.paths.data)
    assert not [w for w in vm.last.report.warnings if w.code.startswith("data.")]


def test_an_own_directory_that_keeps_apps_out_is_a_warning(vm):
    vm.paths.data.mkdir(parents=True)
    vm.paths.data.chmod(0o700)
    vm.boot()
    assert vm.turn() is None
    assert [w.code for w in vm.last.report.warnings] == ["data.unreadable"]


def test_the_own_directory_by_its_name_is_made_and_not_looked_at(vm, tmp_path):
    own = tmp_path / "var/lib/flower-agent/data"
    vm.set(FLOWER_DATA=str(own))
    vm.boot()
    assert vm.turn() is None
    assert own.is_dir()
    assert vm.volumes.looked == []


class HangingDocker:
    """A Docker whose mount hangs longer than anybody waits, as with a server that is away."""

    owner = "default"

    def __init__(self):
        self.removals = 0

    @contextlib.contextmanager
    def calling(self, _what, _code="", *, timeout_s=None):
        assert timeout_s
        yield self

    def bindings(self, _api, mounts):
        return {"mounts": [client.mounted(mount, self.owner) for mount in mounts]}

    def containers(self, **_):
        return [{"Id": "left"}]

    def create_host_config(self, **config):
        return config

    def create_container(self, _image, **config):
        assert config["host_config"]["network_mode"] == "none"
        return {"Id": "made"}

    def start(self, _made):
        raise requests.ReadTimeout

    def remove_container(self, _made, **_):
        self.removals += 1
        raise requests.ReadTimeout


def test_a_server_that_hangs_is_given_up_on_and_named():
    source, docker = data_source.parse_data_source("nfs://nas/export"), HangingDocker()
    mounts = data_mounts.mounts(source, "default", "", propagation="rprivate")
    volumes = DataVolumes(docker, limit_s=7)
    with pytest.raises(AgentError) as raised:
        app_data.look(volumes, app_data._Asked(source, "i"), mounts)
    found = raised.value.finding
    assert (found.code, found.message) == (
        "data.missing",
        "FLOWER_DATA is nfs://nas/export, and nas does not answer: timed out",
    )
    assert docker.removals == 2
