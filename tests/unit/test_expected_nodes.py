"""Which SuperNodes should be there, and what a SuperLink warns of."""

import dataclasses
import datetime

import pytest
from node_key_pairs import node, public

from flower_agent.enrolment import expected_nodes, policy
from flower_agent.enrolment.policy import Claim
from flower_agent.flower.control_messages import NodeStatus
from flower_agent.model.state import Partition, Pin
from flower_agent.onegate.discovery import ServiceVm

ON, OFF, NEW = NodeStatus.ONLINE, NodeStatus.OFFLINE, NodeStatus.REGISTERED
PINS = [Pin("42", public(1), own=True), Pin("43", public(2), own=True)]
CAME, LEFT = "2026-03-01T10:00:00+00:00", "2026-03-01T11:00:00+00:00"
DIGEST = "sha256:" + "0" * 64


def seen(nodes, pins=PINS, claims=(), members=("42", "43"), **more):
    known = {claim.vmid: claim for claim in claims}
    return expected_nodes.expected_nodes(nodes, pins, known, members, **more)


def said(found):
    return {finding.code: finding.message for finding in found.findings}


def left(number, at=LEFT, **more):
    away = node(number, OFF)
    return dataclasses.replace(away, last_activated_at=CAME, last_deactivated_at=at, **more)


def test_all_that_are_there_are_counted_of_all_that_should_be():
    found = seen([node(1, ON), node(2, ON)])
    assert (str(found), found.findings) == ("2 of 2 SuperNodes connected", ())


def test_one_that_went_offline_is_named_with_its_vm_and_since_when():
    found = seen([node(1, ON), left(2)])
    assert str(found) == "1 of 2 SuperNodes connected"
    away = "SuperNodes that were connected are offline: VM 43 since 2026-03-01T11:00:00Z"
    assert said(found) == {"node.offline": away}


def test_one_whose_heartbeats_ended_is_away_since_the_last_of_them():
    until = datetime.datetime(2026, 3, 1, 10, 30, tzinfo=datetime.UTC)
    gone = dataclasses.replace(node(2, OFF), last_activated_at=CAME, online_until=until)
    assert "VM 43 since 2026-03-01T10:30:00Z" in said(seen([node(1, ON), gone]))["node.offline"]


def test_what_one_that_is_away_says_itself_is_its_cause():
    told = Claim("43", public(2), state="failed", error="image.pull: no route")
    found = said(seen([left(2)], claims=[told]))
    assert found["node.offline"].endswith("(it reports failed, image.pull: no route)")
    assert set(found) == {"node.offline"}, "one cause is told once"


def test_one_that_was_never_there_is_counted_and_no_warning():
    found = seen([node(1, ON), node(2, NEW)])
    assert (str(found), found.findings) == ("1 of 2 SuperNodes connected", ())


def test_one_that_says_that_it_does_not_work_is_named_though_it_is_connected():
    told = [
        Claim("42", public(1), state="degraded", error="peer.mtu: packets are dropped"),
        Claim("43", public(2), state="ready"),
    ]
    found = seen([node(1, ON), node(2, ON)], claims=told)
    assert str(found) == "2 of 2 SuperNodes connected"
    why = "VM 42 reports degraded, peer.mtu: packets are dropped"
    words = f"SuperNodes report that they do not work: {why}"
    assert said(found) == {"node.degraded": words}


def test_a_vm_that_left_the_service_is_expected_no_more():
    found = seen([node(1, ON), left(2)], members=("42",))
    assert (str(found), found.findings) == ("1 of 1 SuperNodes connected", ())


def test_while_the_service_is_not_known_everybody_is_expected():
    assert str(seen([node(1, ON), left(2)], members=None)) == "1 of 2 SuperNodes connected"


def test_one_that_can_never_return_is_not_expected():
    assert str(seen([node(1, ON), node(2, NodeStatus.UNREGISTERED)])) == (
        "1 of 1 SuperNodes connected"
    )


def test_no_node_at_all_is_no_fault():
    found = seen([], pins=[])
    assert (str(found), found.findings) == ("0 SuperNodes connected", ())


def test_a_node_without_a_vm_that_went_offline_is_named_by_its_id():
    found = said(seen([node(1, ON), left(5)], pins=[]))
    assert found["node.offline"].startswith(
        f"SuperNodes that were connected are offline: node {node(5).node_id} since"
    )


@pytest.mark.parametrize("at", ["2026-03-01T11:30:00+00:00", "2026-03-01T10:59:00+00:00"])
def test_a_node_without_a_key_that_came_again_under_another_id_is_not_missed(at):
    again = dataclasses.replace(node(6, ON), registered_at=at)
    found = seen([again, left(5)], pins=[])
    assert (str(found), found.findings) == ("1 of 1 SuperNodes connected", ())


def test_one_node_that_came_takes_the_place_of_one_alone():
    again = dataclasses.replace(node(6, ON), registered_at="2026-03-01T11:30:00+00:00")
    old = dataclasses.replace(node(1, ON), registered_at=CAME)
    assert str(seen([old, again, left(5), left(7)], pins=[])) == "2 of 3 SuperNodes connected"


def test_dates_of_no_known_form_excuse_nobody():
    again = dataclasses.replace(node(6, ON), registered_at="lately")
    assert str(seen([again, left(5, "long ago")], pins=[])) == "1 of 2 SuperNodes connected"


def test_an_image_that_lacks_something_is_named_with_its_vm():
    told = [Claim("42", public(1), lacks=("torch", "wandb")), Claim("43", public(2))]
    words = "images that run apps lack packages of the app: VM 42 lacks torch, wandb"
    assert said(seen([node(1, ON), node(2, ON)], claims=told)) == {"node.image": words}


def test_of_many_the_first_are_named():
    numbers = range(1, 9)
    pins = [Pin(str(40 + n), public(n), own=True) for n in numbers]
    found = seen([left(n) for n in numbers], pins, members=[pin.vmid for pin in pins])
    assert said(found)["node.offline"].endswith("; and 3 more")


def test_what_a_vm_publishes_about_itself_is_bounded_and_plain():
    told = {
        "FLOWER_ROLE": "supernode",
        "FLOWER_STATE": "degraded",
        "FLOWER_ERROR": "x\x1b[31m" + "y" * 10_000,
        "FLOWER_APP_IMAGE": f"{DIGEST} lacks a;b;c;d;e;f;g",
    }
    found = policy.claim(ServiceVm("42", "", told))
    assert (found.state, found.lacks) == ("degraded", ("a", "b", "c", "d", "e"))
    assert len(found.error) == 200
    assert found.error.isprintable()
    strange = told | {"FLOWER_STATE": "marvellous", "FLOWER_APP_IMAGE": "lacks sense"}
    assert policy.claim(ServiceVm("42", "", strange)).state == ""
    assert policy.claim(ServiceVm("42", "", strange)).lacks == ()


def parted(*parts):
    """Return what VMs that have these partitions say."""
    return [
        Claim(pin.vmid, pin.key, partition=Partition(*part))
        for pin, part in zip(PINS, parts, strict=False)
    ]


BOTH = [node(1, ON), node(2, ON)]
GAP = {"partition.gaps": "no SuperNode has partition 0 of 2"}


def test_partitions_that_nobody_or_two_have_are_told():
    assert said(seen(BOTH, claims=parted((0, 2), (1, 2)))) == {}
    twice = said(seen(BOTH, claims=parted((1, 2), (1, 2))))
    words = "SuperNodes share a partition: VM 42, VM 43 have 1; no SuperNode has partition 0 of 2"
    assert twice == {"partition.gaps": words}
    differ = "SuperNodes count partitions differently: VM 42 counts 2; VM 43 counts 3"
    assert differ in said(seen(BOTH, claims=parted((0, 2), (1, 3))))["partition.gaps"]


def test_a_partition_goes_with_the_vm_that_oneflow_removed():
    told = parted((0, 2), (1, 2))
    assert said(seen([node(1, OFF), node(2, ON)], claims=told, members=("43",))) == GAP


def test_a_vm_that_is_away_keeps_its_partition():
    found = said(seen([left(1), node(2, ON)], claims=parted((0, 2), (1, 2))))
    assert set(found) == {"node.offline"}


def test_no_partition_is_missed_while_somebody_is_still_to_come():
    told = [parted((0, 2))[0], parted((0, 2), (1, 2))[1]]
    assert said(seen(BOTH, claims=[Claim("42", public(1)), told[1]])) == {}
    assert said(seen(BOTH, claims=[told[1]])) == {}, "the other was not asked yet"
    assert said(seen(BOTH[1:], claims=told[1:], members=("43",), growing=True)) == {}
    assert said(seen(BOTH[1:], claims=told[1:], members=("43",))) == GAP
    assert said(seen(BOTH[1:], claims=told[1:], members=None)) == {}


def test_a_node_outside_the_service_may_have_any_partition():
    assert said(seen([*BOTH[1:], node(5, ON)], claims=parted((0, 2), (1, 2))[1:])) == {}


def test_where_the_superlink_assigns_partitions_it_knows_those_of_sites():
    told, nodes = parted((0, 2), (1, 2))[1:], [*BOTH[1:], node(5, ON)]
    assert said(seen(nodes, claims=told, sites=(0,))) == {}
    assert said(seen(nodes, claims=told, sites=())) == GAP
