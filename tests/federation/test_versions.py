"""Other Flower versions on the way: a federation that is upgraded, one that fails, a mixed one."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
from federation import REPOSITORY
from watched import WatchedFederation, docker, wait_for

from flower_agent.config import flower_versions

pytestmark = [pytest.mark.engine, pytest.mark.federation, pytest.mark.long]

OLD, NEW, BROKEN = "1.25.0", "1.34.0", "1.34.9"
NEWEST, UNHEARD_OF = "1.42.0", "1.99.0"
SUFFIX = "-py3.13-ubuntu24.04"
MIGRATES_AND_DIES = rf"""
FROM flwr/superlink:{NEW}{SUFFIX}
ENTRYPOINT ["bash", "-c", "flower-superlink \"$@\" & sleep 4; kill $!; wait; exit 1", "superlink"]
"""


def built(version):
    build = [sys.executable, REPOSITORY / "contrib/images/build.py", "--flower", version]
    subprocess.run([*build, "--framework", "sklearn"], check=True)


def tagged(new, old):
    """Return tag → source that make images of one version look like another's."""
    names = "flwr/superlink:{}{}", "flwr/supernode:{}{}", "flwr/superexec:{}"
    names += ("flower-agent/superexec:{}-sklearn",)
    return {name.format(new, SUFFIX): name.format(old, SUFFIX) for name in names}


@pytest.fixture(scope="module")
def new(images):
    built(NEW)


@pytest.fixture(scope="module")
def newest(images):
    built(NEWEST)


@pytest.fixture
def unheard_of(newest):
    """A version that the agent's table does not have."""
    tags = tagged(UNHEARD_OF, NEWEST)
    for tag, source in tags.items():
        docker("tag", source, tag)
    yield
    docker("rmi", *tags)


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
    tags = tagged(BROKEN, NEW)
    for tag, source in tags.items():
        if tag != made:
            docker("tag", source, tag)
    yield
    docker("rmi", *tags)


@pytest.fixture
def make(images, tmp_path):
    """Makes a federation that is taken down at the end."""
    made = []

    def up(**variables):
        federation = WatchedFederation(
            tmp_path, name="versions", base_port=31620, variables=variables, say=lambda _: None
        )
        made.append(federation)
        federation.up()
        return federation

    yield up
    for federation in made:
        federation.down()


def change(federation, machine, version):
    """Set a version, and from 1.40 on the operator's consent."""
    more = {"FLOWER_VERSION": version}
    if (
        machine is federation.superlink
        and flower_versions.band(flower_versions.parse_version(version)).id == "E"
    ):
        more["FLOWER_CONTROL_ADDRESS"] = f"127.0.0.1:{machine.variables['FLOWER_FLEET_PORT']}"
    federation.write_context(machine, {**machine.variables, **more})


def runs(machine, version):
    """Return whether a VM's containers run, all of that version."""
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
    federation.version = flower_versions.parse_version(version)
    return sum(bool(re.search(r"round \d of 3: accuracy", line)) for line in federation.submit())


@pytest.mark.parametrize("version", [NEW, NEWEST])
def test_nodes_follow_an_upgraded_superlink_whose_database_was_copied(make, request, version):
    request.getfixturevalue({NEW: "new", NEWEST: "newest"}[version])
    federation = make()
    link, *nodes = federation.machines
    for node in nodes:
        change(federation, node, version)
        wait_for(lambda node=node: "version.follows" in warnings(federation, node), "it waits")
        assert ready(federation, node, OLD)
        assert runs(node, OLD)
    change(federation, link, version)
    wait_for(lambda: ready(federation, link, version), "the SuperLink upgraded", 120)
    for node in nodes:
        wait_for(lambda node=node: ready(federation, node, version), "a node that followed", 180)
    assert all(runs(machine, version) for machine in federation.machines)
    assert federation.attributes(link)["FLOWER_VERSION"] == version
    copy = link.root / f"var/lib/flower-agent/copies/superlink-{OLD}+{version}/state.db"
    assert copy.read_bytes().startswith(b"SQLite format 3")
    assert federation.connected() == 2
    assert rounds(federation, version) == 3


def test_an_upgrade_that_fails_is_taken_back_with_the_database_and_says_why(broken, make):
    federation = make()
    link = federation.superlink
    change(federation, link, BROKEN)
    wait_for(lambda: "version.failed" in warnings(federation, link), "it was given up", 180)
    wait_for(lambda: ready(federation, link, OLD), "the old version runs", 120)
    assert runs(link, OLD)
    assert "with status 1" in warnings(federation, link)["version.failed"]
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
        for machine, version in zip(federation.supernodes, (NEW, NEWEST), strict=True)
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


def test_a_version_that_nobody_knows_runs_like_the_newest_with_a_warning(unheard_of, make):
    federation = make(FLOWER_VERSION=UNHEARD_OF)
    for machine in federation.machines:
        assert "newer than 1.42" in warnings(federation, machine)["version.newer"]
    assert rounds(federation, UNHEARD_OF) == 3
