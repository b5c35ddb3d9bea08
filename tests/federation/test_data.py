"""Data of apps from disks, mounted by a real Docker: loop devices, and a whole SuperNode.

This kernel has no NFS client, so of NFS the options and Docker's refusal are tried; tests/image has
a real server.
"""

import json
import pathlib
import subprocess

import pytest
from watched import docker, started, wait_for

from flower_agent.agent import app_data
from flower_agent.config import data_source
from flower_agent.docker import data_mounts
from flower_agent.docker.client import Engine
from flower_agent.docker.one_shot import VOLUME_LABEL, DataVolumes
from flower_agent.model.errors import AgentError

pytestmark = [pytest.mark.engine, pytest.mark.federation]

IMAGE = "flwr/superexec:1.25.0"
OWNER = "datatest"
BY_LABEL = pathlib.Path("/dev/disk/by-label")


def run(*command):
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


@pytest.fixture
def disk(tmp_path):
    """Makes loop devices of 64 MiB; they are let go at the end."""
    made = []

    def make(name, kind=None, *, label="", **files):
        folder = tmp_path / f"{name}-files"
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        image = tmp_path / f"{name}.img"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        if kind == "ext4":
            run("mke2fs", "-q", "-t", "ext4", "-L", label, "-d", str(folder), str(image))
        device = run("losetup", "--find", "--show", str(image))
        made.append(device)
        return device

    yield make
    for device in made:
        run("losetup", "--detach", device)


@pytest.fixture
def label(disk):
    """Makes a disk that is found by its label, as udev would link it."""
    links = []

    def make(text, **files):
        device = disk("labelled", "ext4", label=text, **files)
        BY_LABEL.mkdir(parents=True, exist_ok=True)
        link = BY_LABEL / data_source.encoded(text)
        link.symlink_to(device)
        links.append(link)

    yield make
    for link in links:
        link.unlink()


@pytest.fixture
def volumes(images):
    engine = Engine(OWNER)
    volumes = DataVolumes(engine)
    yield volumes
    volumes.sweep("")
    engine.close()
    assert docker("ps", "-aq", "--filter", f"label={VOLUME_LABEL}={OWNER}") == ""
    assert docker("volume", "ls", "-q", "--filter", f"name=flower-agent-{OWNER}") == ""


def look(volumes, text, known_type="", *, backwards=False):
    source = data_source.parse_data_source(text)
    mounts = data_mounts.mounts(source, OWNER, known_type, propagation="rprivate")
    asked = app_data._Asked(source, IMAGE)
    return app_data.look(volumes, asked, mounts[::-1] if backwards else mounts)


def refused(volumes, text, known_type=""):
    with pytest.raises(AgentError) as raised:
        look(volumes, text, known_type)
    return raised.value.finding


def test_a_disk_is_read_by_its_device_and_by_its_label(volumes, disk, label):
    device = disk("plain", "ext4", one="1", two="2")
    found = look(volumes, device, "ext4")
    assert (found.words, dict(found.mount.volume)["type"]) == ("2 entries", "ext4")
    label("my data", only="x")
    assert look(volumes, "LABEL=my data", "ext4").words == "1 entry"


def test_the_type_of_a_disk_is_found_by_trying(volumes, disk):
    found = look(volumes, disk("plain", "ext4", one="1"), backwards=True)
    assert dict(found.mount.volume)["type"] == "ext4"


def test_what_docker_cannot_mount_is_named(volumes, disk, tmp_path):
    found = refused(volumes, disk("raw"))
    assert (found.code, "ext4, xfs" in found.message) == ("data.filesystem", True)
    device = disk("plain", "ext4")
    assert refused(volumes, device, "xfs").code == "data.filesystem"
    assert refused(volumes, "LABEL=nothing-at-all").code == "data.missing"
    busy = tmp_path / "busy"
    busy.mkdir()
    run("mount", device, str(busy))
    try:
        found = refused(volumes, device, "ext4")
        assert (found.code, "in use" in found.message) == ("data.refused", True)
    finally:
        run("umount", str(busy))


def test_an_export_of_a_server_that_nobody_knows_is_named(volumes):
    found = refused(volumes, "nfs://nas.invalid/export")
    assert found.code == "data.missing"
    assert "nas.invalid does not answer" in found.message


def test_the_options_of_an_export_reach_docker(volumes):
    source = data_source.parse_data_source("nfs://127.0.0.1/x")
    (mount,) = data_mounts.mounts(source, OWNER, "", propagation="rprivate")
    with pytest.raises(AgentError):
        volumes.look(mount, IMAGE)
    (volume,) = json.loads(docker("volume", "inspect", mount.source))
    assert volume["Options"] == dict(mount.volume)
    assert volume["Labels"] == {"org.flower-agent.name": OWNER}


def test_a_directory_is_looked_at_as_the_user_of_apps(volumes):
    place = pathlib.Path(run("mktemp", "-d", "/srv/flower-data-XXXX"))
    try:
        (place / "train.csv").write_text("x")
        assert refused(volumes, str(place)).code == "data.unreadable"
        place.chmod(0o755)
        assert look(volumes, str(place)).words == "1 entry"
        (place / "train.csv").chmod(0)
        assert refused(volumes, str(place)).code == "data.unreadable"
        assert refused(volumes, f"{place}/train.csv").code == "data.refused"
        assert refused(volumes, f"{place}/nothing").code == "data.missing"
    finally:
        run("rm", "-rf", str(place))


def test_a_supernodes_apps_read_a_disk_and_its_loss_is_named(lone, disk):
    device = disk("plain", "ext4", one="1")
    federation = lone(31860, "data", FLOWER_DATA=device, FLOWER_ENV_HF_TOKEN="sesame")
    node = federation.supernodes[0]
    for machine in (federation.superlink, node):
        federation.deploy(machine)
    wait_for(lambda: federation.agent(node, "status").returncode == 0, "SuperNode")
    facts = {fact["name"]: fact["detail"] for fact in federation.status(node)["facts"]}
    assert facts["data"] == f"{device} (ext4): 1 entry"
    apps, main = f"{node.prefix}-flower-superexec", f"{node.prefix}-flower-supernode"
    assert docker("exec", apps, "python", "-c", "print(open('/app/data/one').read())") == "1\n"
    write = "import os\ntry: open('/app/data/two', 'w')\nexcept OSError as e: print(e.strerror)"
    assert docker("exec", apps, "python", "-c", write) == "Read-only file system\n"
    show = "import json; print(json.load(open('/app/environment.json'))['HF_TOKEN'])"
    assert docker("exec", apps, "python", "-c", show) == "sesame\n"
    assert "sesame" not in docker("inspect", apps)
    before = started(apps), started(main)
    federation.write_context(node, {**node.variables, "FLOWER_DATA": "LABEL=nothing-at-all"})
    wait_for(
        lambda: (federation.status(node)["error"] or {}).get("code") == "data.missing",
        "data.missing",
    )
    assert federation.status(node)["phase"] == "data"
    assert (started(apps), started(main)) == before
    federation.write_context(node, {**node.variables, "FLOWER_DATA": ""})
    wait_for(lambda: started(apps) not in ("", before[0]), "another container of apps")
    wait_for(lambda: federation.agent(node, "status").returncode == 0, "ready again")
    assert started(main) == before[1]
    name = f"name=flower-agent-{node.prefix}-data"
    wait_for(lambda: docker("volume", "ls", "-q", "--filter", name) == "", "no volume left")
