"""Docker's live-restore is set, and nothing that an administrator wrote is lost."""

import importlib.machinery
import importlib.util
import json

import pytest
from conftest import ROOT

FILE = "etc/docker/daemon.json"
PROGRAM = ROOT / "contrib" / "package" / "installed" / "live-restore"


@pytest.fixture
def run(tmp_path):
    loader = importlib.machinery.SourceFileLoader("live_restore", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return lambda: module.main(tmp_path)


@pytest.fixture
def given(tmp_path):
    def write(place, text):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
        return tmp_path / place

    return write


def test_it_is_set_where_there_is_no_file(run, tmp_path):
    assert run() == ""
    assert json.loads((tmp_path / FILE).read_text()) == {"live-restore": True}
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o644


def test_it_is_set_beside_what_is_there_in_the_same_layout(run, given):
    file = given(FILE, '{\n    "bridge": "none",\n    "log-opts": {"max-size": "10m"}\n}\n')
    file.chmod(0o640)
    assert run() == ""
    assert file.read_text().endswith(
        '    "bridge": "none",\n    "log-opts": {"max-size": "10m"}\n}\n'
    )
    assert json.loads(file.read_text())["live-restore"] is True
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ['{"live-restore": false}', '{ "live-restore":true }', "{"])
def test_a_file_that_decides_or_cannot_be_read_stays(run, given, text):
    file = given(FILE, text)
    before = file.stat()
    reason = run()
    assert bool(reason) == (text == "{")
    assert file.read_text() == text
    assert file.stat().st_ino == before.st_ino


@pytest.mark.parametrize("text", ["", "\n", "{}", "{ }\n"])
def test_an_empty_file_is_filled(run, given, text):
    file = given(FILE, text)
    assert run() == ""
    assert json.loads(file.read_text()) == {"live-restore": True}


def test_twice_is_once(run, given):
    file = given(FILE, '{"debug": true}')
    run()
    before = file.read_text()
    assert run() == ""
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("etc/sysconfig/docker", 'DOCKER_OPTS="--live-restore"\n'),
        ("etc/default/docker", 'DOCKER_OPTS="--live-restore=true"\n'),
        ("etc/systemd/system/docker.service.d/a.conf", "ExecStart=dockerd --live-restore\n"),
        ("var/lib/docker/swarm/docker-state.json", "{}"),
    ],
)
def test_dockerd_would_not_start_with_it_so_it_is_left_alone(run, given, tmp_path, place, text):
    given(place, text)
    assert run() != ""
    assert not (tmp_path / FILE).exists()


def test_a_link_is_followed(run, given, tmp_path):
    real = given("srv/daemon.json", '{"debug": true}')
    (tmp_path / "etc/docker").mkdir(parents=True)
    (tmp_path / FILE).symlink_to(real)
    assert run() == ""
    assert (tmp_path / FILE).readlink() == real
    assert json.loads(real.read_text()) == {"live-restore": True, "debug": True}
