"""FLOWER_DATA from a real NFS server, mounted by a real Docker, in a guest that has both.

The kernel of a machine for tests often has no NFS client, so a guest of the image's own making runs
the agent's look at the data. Takes about ten minutes.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import archive_keys
import disk
import engine
import file_tree
import pytest
import suites
from guest import Guest, write_context

ROOT = pathlib.Path(__file__).parents[2]
IMAGE = "flwr/superexec:1.25.0"
PLACE = "opt/flower"
DATA = "/srv/data"
OWNER = "nfs"
TIMED_OUT = 124
"""Status of ``timeout``."""

LIMIT_S = 60
"""Of one look here; the agent's own is twice that."""

LOOK = f"""\
import json, sys, time
from flower_agent.agent import app_data
from flower_agent.config.data_source import parse_data_source
from flower_agent.docker import data_mounts
from flower_agent.docker.client import Engine
from flower_agent.docker.one_shot import DataVolumes
source = parse_data_source(sys.argv[1])
volumes = DataVolumes(Engine({OWNER!r}), limit_s={LIMIT_S})
asked = app_data._Asked(source, {IMAGE!r})
mounts = data_mounts.mounts(source, {OWNER!r}, "", propagation="rprivate")
began = time.monotonic()
found = app_data.look(volumes, asked, mounts)
error = found.error.finding if found.error else None
print(json.dumps({{
    "words": found.words, "volume": mounts[0].source, "took_s": time.monotonic() - began,
    "code": error.code if error else "", "message": error.message if error else "",
}}))
"""

pytestmark = [pytest.mark.long, pytest.mark.engine]


@pytest.fixture(scope="module")
def image(docker_url, tmp_path_factory):
    """The image in FLOWER_AGENT_TEST_NFS_IMAGE, else one built now."""
    if given := os.environ.get("FLOWER_AGENT_TEST_NFS_IMAGE"):
        return pathlib.Path(given)
    subprocess.run([ROOT / "contrib/image/build", "--help"], check=True, stdout=subprocess.PIPE)
    return build(tmp_path_factory.mktemp("nfs"))


def build(work):
    """Build Debian with Docker, an NFS server, an image of Flower and the agent as it is here."""
    tree, output = work / "tree", work / "nfs.qcow2"
    suite = suites.SUITES["bookworm"]
    suite = dataclasses.replace(suite, network=(*suite.network, "nfs-kernel-server", "python3"))
    keyring = archive_keys.find(suite, suite.mirror, work)
    file_tree.build(tree, suite, mirror=suite.mirror, keyring=keyring, packages=(), stand_in=False)
    with engine.running(tree / engine.DATA) as url:
        engine._copy(IMAGE, url)
    put_agent(tree / PLACE)
    export(tree)
    disk.write(tree, output, size_bytes=6 << 30, label=file_tree.LABEL, work=work)
    shutil.rmtree(tree)
    return output


def put_agent(place):
    """Copy the agent and what the look imports; this Python is the guest's, too."""
    unused = shutil.ignore_patterns("numpy*", "scipy*", "sklearn*", "__pycache__")
    shutil.copytree(sysconfig.get_path("purelib"), place / "packages", ignore=unused)
    shutil.copytree(ROOT / "flower_agent", place / "packages/flower_agent")
    (place / "look.py").write_text(LOOK)


def export(tree):
    """Export one directory that Flower's user can read, and one that it cannot."""
    data = tree / DATA.strip("/")
    closed = tree / "srv/closed"
    for place in (data, closed):
        place.mkdir(parents=True)
        (place / "part.csv").write_text("1,2,3\n")
    closed.chmod(0o700)
    rows = (f"/srv/{name} 127.0.0.1(ro,no_subtree_check)\n" for name in ("data", "closed"))
    (tree / "etc/exports").write_text("".join(rows))


@pytest.fixture
def guest(image, tmp_path):
    write_context(tmp_path, {"ETH0_IP": "10.0.2.15"})
    guest = Guest(image, tmp_path)
    try:
        waits = "systemctl is-system-running --wait; docker version && exportfs -v"
        code, said = guest.run("/bin/sh", "-c", waits)
        assert (code, DATA in said) == (0, True), said
        yield guest
    finally:
        guest.close()


def look(guest, export):
    """Return how the agent's look at an export of the guest's own server ends."""
    path = f"PYTHONPATH=/{PLACE}/packages"
    program = ("/usr/bin/python3", f"/{PLACE}/look.py", f"nfs://127.0.0.1{export}")
    code, said = guest.run("/usr/bin/env", path, *program)
    assert code == 0, said
    return json.loads(said.splitlines()[-1])


def shell(guest, command):
    code, said = guest.run("/bin/sh", "-c", command)
    assert code == 0, said
    return said


def test_what_an_nfs_server_exports_is_read_or_its_lack_is_named(guest, capsys):
    good = look(guest, DATA)
    assert (good["code"], good["words"]) == ("", "1 entry")
    mount = f"type=volume,source={good['volume']},target=/app/data,readonly"
    app = f"--user 49999 --network none --mount {mount} --entrypoint sleep {IMAGE} 3600"
    shell(guest, f"docker run --detach --name app {app}")
    read = "docker exec app cat /app/data/part.csv"
    assert shell(guest, read) == "1,2,3\n"

    closed = look(guest, "/srv/closed")
    assert closed["code"] == "data.unreadable"
    assert "49999 cannot read it" in closed["message"]

    none = look(guest, "/srv/none")
    assert none["code"] == "data.missing"
    assert none["message"].endswith("which 127.0.0.1 does not export")

    shell(guest, "iptables -I INPUT -p tcp --dport 2049 -j DROP")
    # A mount that hangs must hold up nothing else: Docker is asked the while.
    asks = "for i in $(seq 20); do timeout 20 docker ps -q || exit 1; sleep 1; done"
    shell(guest, f"(({asks}); echo $? >/run/asked) >/dev/null 2>&1 &")
    away = look(guest, "/srv/away")
    assert away["code"] in ("data.missing", "data.refused")
    assert away["took_s"] < 3 * LIMIT_S
    assert shell(guest, "while [ ! -e /run/asked ]; do sleep 1; done; cat /run/asked") == "0\n"

    # An app that reads gets an error, and its container ends though its data is away.
    code, _ = guest.run("/bin/sh", "-c", f"echo 3 >/proc/sys/vm/drop_caches; timeout 120 {read}")
    assert code not in (0, TIMED_OUT)
    shell(guest, "timeout 120 docker rm --force app")

    shell(guest, "iptables -D INPUT -p tcp --dport 2049 -j DROP; systemctl stop nfs-server")
    stopped = look(guest, "/srv/other")
    assert stopped["code"] == "data.missing"
    assert "127.0.0.1 does not answer" in stopped["message"]

    shell(guest, "systemctl start nfs-server")
    assert look(guest, DATA)["words"] == "1 entry"
    with capsys.disabled():
        sys.stdout.write("".join(f"\n  {each}" for each in (good, closed, none, away, stopped)))
