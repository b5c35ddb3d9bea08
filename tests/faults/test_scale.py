"""SuperNodes join and leave a federation that runs, as OneFlow scales their role."""

import dataclasses

import pytest
from federation import SERVICE
from vms import SUBPROCESS, ids, published, ready, state
from watched import WatchedFederation, docker, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.federation]

ROLE = "supernode"


@pytest.fixture
def grown(tmp_path, images):
    """A federation of two SuperNodes, with places for three more."""
    federation = WatchedFederation(
        tmp_path,
        name="fo-scale",
        base_port=27400,
        supernodes=5,
        variables=SUBPROCESS,
        environment={"FLOWER_AGENT_TIME_SCALE": "0.1"},
        say=lambda _: None,
    )
    federation.start_onegate()
    federation.cloud.scale(SERVICE, ROLE, 2)
    try:
        for machine in federation.machines[:3]:
            federation.deploy(machine)
            federation.wait_ready(machine)
        yield federation
    finally:
        federation.down()


def partition(federation, machine):
    return published(federation, machine, "FLOWER_PARTITION")


def given(machine):
    """Return what Flower was started with."""
    name = f"{machine.prefix}-flower-supernode"
    words = docker("inspect", "-f", "{{json .Args}}", name)
    return words.split("partition-id=")[1].split()[0]


def leave(federation, machine):
    """End a VM as OneFlow does, with all that is in it."""
    federation.stop_agent(machine)
    federation.agent(machine, "down")
    federation.cloud.remove_vm(machine.vmid)


def test_nodes_join_and_leave_and_no_partition_is_moved_or_given_twice(grown):
    first, second, third, fourth, fifth = grown.supernodes
    assert [partition(grown, m) for m in (first, second)] == ["0/2", "1/2"]
    before = ids(grown.superlink), ids(second)

    grown.cloud.scale(SERVICE, ROLE, 3)
    grown.deploy(third)
    grown.wait_ready(third)
    assert partition(grown, third) == "2/3"

    leave(grown, first)
    grown.cloud.scale(SERVICE, ROLE, 2)
    wait_for(lambda: nodes(grown) == 2, "the SuperLink misses it", 150)

    # Two take its place and one more, at the same moment; their names go on counting.
    grown.cloud.scale(SERVICE, ROLE, 3)
    late = [dataclasses.replace(fourth, name="supernode_7_(service_7)"), fifth]
    for machine in late:
        grown.deploy(machine)
    for machine in late:
        ready(grown, machine)
    wait_for(lambda: nodes(grown) == 4, "four nodes")
    alive = [second, third, *late]
    told = [partition(grown, machine).split("/")[0] for machine in alive]
    assert told == ["1", "2", "0", "3"]
    assert [given(machine) for machine in alive] == told
    assert (ids(grown.superlink), ids(second)) == before
    assert {state(grown, machine) for machine in (grown.superlink, *alive)} == {"ready"}


def nodes(federation):
    return federation.status(federation.superlink)["nodes"]
