"""FLOWER_PARTITIONS with real Flower: who has which id, and when an id is free again.

At a scale of 0.05 a VM has left the service for good 30 s after OneGate stopped to list it.
"""

import time

import pytest
from watched import WatchedFederation, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.federation]

LIGHT = {"FLOWER_ISOLATION": "subprocess", "ML_FRAMEWORK": "", "FLOWER_READY_TIMEOUT": "6000"}
AWAY_S = 45.0
"""Longer than a VM that left needs for its id to be free."""

FREE_S = 150.0


@pytest.fixture(scope="module")
def federation(tmp_path_factory, images):
    """A SuperLink of two partitions and two SuperNodes; a third VM is not deployed."""
    made = WatchedFederation(
        tmp_path_factory.mktemp("partitions"),
        name="fpart",
        base_port=21700,
        supernodes=3,
        variables={**LIGHT, "FLOWER_PARTITIONS": "2"},
        environment={"FLOWER_AGENT_TIME_SCALE": "0.05"},
        say=lambda _: None,
    )
    try:
        made.start_onegate()
        made.deploy(made.superlink)
        made.wait_ready(made.superlink)
        for machine in made.supernodes[:2]:
            made.deploy(machine)
        for machine in made.supernodes[:2]:
            made.wait_ready(machine)
        yield made
    finally:
        made.down()


def partition(federation, machine):
    return federation.status(machine).get("partition")


def error(federation, machine):
    return (federation.status(machine).get("error") or {}).get("code")


def assigned(federation):
    """Return what the SuperLink publishes."""
    return federation.attributes(federation.superlink).get("FLOWER_PARTITIONS")


def warnings(federation):
    found = federation.status(federation.superlink).get("warnings", ())
    return {warning["code"] for warning in found}


def test_an_id_belongs_to_its_node_until_its_vm_leaves_the_service(federation):
    """One story, since each step needs the one before."""
    first, second, third = federation.supernodes
    assert partition(federation, first) == "0/2"
    assert partition(federation, second) == "1/2"
    assert assigned(federation) == f"2;{first.vmid}-{second.vmid}:0"

    # A third VM gets none, and both sides say so.
    federation.deploy(third)
    wait_for(lambda: error(federation, third) == "partition.none_free", "the third node waits")
    wait_for(lambda: "partition.none_free" in warnings(federation), "the SuperLink's warning")

    # Merely away: its id stays its own for longer than a VM that left would have it.
    federation.stop_agent(first)
    assert federation.agent(first, "down").returncode == 0
    end = time.monotonic() + AWAY_S
    while time.monotonic() < end:
        assert error(federation, third) == "partition.none_free"
        assert assigned(federation) == f"2;{first.vmid}-{second.vmid}:0"
        time.sleep(1)
    federation.start_agent(first)
    federation.wait_ready(first)
    assert partition(federation, first) == "0/2"

    # It leaves: its id is the third's, and the second's is untouched.
    running = federation.status(second)["containers"]
    federation.stop_agent(first)
    assert federation.agent(first, "down").returncode == 0
    federation.cloud.remove_vm(first.vmid)
    federation.wait_ready(third, FREE_S)
    assert partition(federation, third) == "0/2"
    assert partition(federation, second) == "1/2"
    assert federation.status(second)["containers"] == running
    wait_for(lambda: "partition.none_free" not in warnings(federation), "no warning")
