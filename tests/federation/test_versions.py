"""Other Flower versions on the way: a federation that is upgraded, one that fails, a mixed one."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
from federation import REPOSITORY
from watched import WatchedFederation, docker, wait_for

from flower_agent import flower

pytestmark = [pytest.mark.engine, pytest.mark.federation, pytest.mark.long]

OLD, NEW, BROKEN, OTHER = "1.25.0", "1.34.0", "1.34.9", "1.42.0"
SUFFIX = "-py3.13-ubuntu24.04"
MIGRATES_AND_DIES = rf"""
FROM flwr/superlink:{NEW}{SUFFIX}
ENTRYPOINT ["bash", "-c", "flower-superlink \"$@\" & sleep 4; kill $!; wait; exit 1", "superlink"]
"""


@pytest.fixture(scope="module")
def new(images):
    """Images of the new version."""
    build = [sys.executable, REPOSITORY / "contrib/images/build.py", "--flower", NEW]
    subprocess.run([*build, "--framework", "sklearn"], check=True)


@pytest.fixture
def broken(new):
    """A version whose SuperLink migrates the database and then ends."""
    made = f"flwr/superlink:{BROKEN}{SUFFIX}"
    subprocess.run(
        ["docker", "build", "--tag", made, "-"],
        input=MIGRATES_AND_DIES,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )
    tags = {
        f"flwr/superexec:{BROKEN}": f"flwr/superexec:{NEW}",
        f"flower-agent/superexec:{BROKEN}-sklearn": f"flower-agent/superexec:{NEW}-sklearn",
    }
    for tag, source in tags.items():
        docker("tag", source, tag)
    yield
    docker("rmi", made, *tags)


@pytest.fixture
def federation(new, tmp_path):
    made = WatchedFederation(tmp_path, name="versions", base_port=31620, say=lambda _: None)
    try:
        made.up()
        yield made
    finally:
        made.down()


def change(federation, machine, version):
    federation.write_context(machine, {**machine.variables, "FLOWER_VERSION": version})


def runs(machine, version):
    """Tell whether a VM's containers run, all of that version."""
    looked = "{{.Config.Image}} {{.State.Running}}"
    names = (f"{machine.prefix}-flower-{part}" for part in (machine.role, "superexec"))
    seen = [docker("inspect", "-f", looked, name) for name in names]
    return all(re.search(rf":{re.escape(version)}-\S+ true", each) for each in seen)


def warnings(federation, machine):
    return {w["code"]: w["message"] for w in federation.status(machine).get("warnings", ())}


def ready(federation, machine, version):
    found = federation.status(machine)
    return found.get("state") == "ready" and found.get("version") == version


def rounds(federation, version):
    """Return how many rounds a run of the reference app finished."""
    federation.version = flower.parse_version(version)
    return sum(bool(re.search(r"round \d of 3: accuracy", line)) for line in federation.submit())


def test_nodes_follow_an_upgraded_superlink_whose_database_was_copied(federation):
    link, *nodes = federation.machines
    for node in nodes:
        change(federation, node, NEW)
        wait_for(lambda node=node: "version.follows" in warnings(federation, node), "it waits")
        assert ready(federation, node, OLD)
        assert runs(node, OLD)
    change(federation, link, NEW)
    wait_for(lambda: ready(federation, link, NEW), "the SuperLink upgraded", 120)
    for node in nodes:
        wait_for(lambda node=node: ready(federation, node, NEW), "a node that followed", 180)
    assert all(runs(machine, NEW) for machine in federation.machines)
    assert all(warnings(federation, machine) == {} for machine in federation.machines)
    assert federation.attributes(link)["FLOWER_VERSION"] == NEW
    copy = link.root / f"var/lib/flower-agent/copies/superlink-{OLD}/state.db"
    assert copy.read_bytes().startswith(b"SQLite format 3")
    assert federation.connected() == 2
    assert rounds(federation, NEW) == 3


def test_an_upgrade_that_fails_is_taken_back_with_the_database_and_says_why(broken, federation):
    link = federation.superlink
    change(federation, link, BROKEN)
    wait_for(lambda: "version.failed" in warnings(federation, link), "it was given up", 180)
    wait_for(lambda: ready(federation, link, OLD), "the old version runs", 120)
    assert runs(link, OLD)
    assert "ended with status 1" in warnings(federation, link)["version.failed"]
    assert federation.attributes(link)["FLOWER_VERSION"] == OLD
    for node in federation.supernodes:
        wait_for(lambda node=node: ready(federation, node, OLD), "a node that came back", 120)
    wait_for(lambda: federation.status(federation.superlink)["nodes"] == 2, "two nodes", 150)
    assert rounds(federation, OLD) == 3


def test_a_node_of_another_version_says_so_and_waits_where_the_two_cannot_talk(new, lone):
    federation = lone(31700, "mixed")
    federation.deploy(federation.superlink)
    federation.wait_ready(federation.superlink)
    newer, alien = (
        dataclasses.replace(machine, variables={**machine.variables, "FLOWER_VERSION": version})
        for machine, version in zip(federation.supernodes, (NEW, OTHER), strict=True)
    )
    federation.deploy(newer)
    federation.wait_ready(newer)
    said = "this VM runs Flower 1.34.0, its SuperLink 1.25.0"
    assert warnings(federation, newer)["version.mixed"] == said
    federation.deploy(alien)
    wait_for(lambda: federation.status(alien).get("error"), "an error")
    wait_for(lambda: federation.status(alien)["error"]["code"] == "version.mixed", "the right one")
    assert "cannot talk to each other" in federation.status(alien)["error"]["message"]
    assert federation.status(alien)["state"] == "starting"
