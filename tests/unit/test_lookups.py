"""Which VMs a SuperLink asks OneGate for: few, and none where nothing changed."""

import dataclasses

import pytest
from node_key_pairs import node, public

from flower_agent.enrolment import lookups, policy
from flower_agent.enrolment.lookups import Absence, Lookup, Standing
from flower_agent.enrolment.policy import Claim
from flower_agent.flower.control_messages import NodeStatus
from flower_agent.model.state import Pin
from flower_agent.onegate.discovery import Member, Service

PINS = [Pin("42", public(1), own=True)]


def standing(claims=(), nodes=(), pins=PINS, vmids=("42",)):
    known = {claim.vmid: claim for claim in claims}
    return lookups.standings(vmids, pins, known, policy.by_key(nodes))["42"]


@pytest.mark.parametrize(
    ("claims", "nodes", "expected"),
    [
        ([], [], Standing.UNKNOWN),
        ([Claim("42", public(1))], [node(1)], Standing.AWAY),
        ([], [node(1, NodeStatus.OFFLINE)], Standing.AWAY),
        ([], [node(1, NodeStatus.ONLINE)], Standing.SETTLED),
        ([Claim("42", public(2))], [node(1, NodeStatus.OFFLINE)], Standing.UNKNOWN),
        ([Claim("42", public(2))], [node(1, NodeStatus.ONLINE)], Standing.SETTLED),
        ([Claim("42", stranger=True)], [], Standing.STRANGE),
    ],
)
def test_a_vm_stands_where_its_key_and_its_node_put_it(claims, nodes, expected):
    assert standing(claims, nodes) is expected


def test_a_vm_without_a_pin_is_unknown_though_its_node_is_online():
    assert standing(nodes=[node(1, NodeStatus.ONLINE)], pins=[]) is Standing.UNKNOWN


def asked_at(look, until, scale=1.0):
    """Return when a VM is asked for, turn by turn."""
    looks, times = {"42": look}, []
    for now in range(until):
        if lookups.due(looks, now, scale):
            times.append(now)
            known = looks["42"]
            looks = {"42": dataclasses.replace(known, asked_at=now)}
    return times


def test_an_unknown_vm_is_asked_for_every_5_s_for_ten_minutes_and_then_each_minute():
    times = asked_at(Lookup(Standing.UNKNOWN, 0), 1000)
    assert times[:121] == list(range(0, 601, 5))
    assert times[121:] == list(range(660, 1000, 60))


def test_a_vm_that_looked_strange_is_asked_again():
    times = asked_at(Lookup(Standing.STRANGE, 0), 3000)
    assert times[:11] == list(range(0, 601, 60))
    assert times[11:] == [1200, 1800, 2400]


def test_the_nodes_of_a_service_are_those_of_a_role_that_has_one_or_the_name():
    service = Service(
        "1",
        tuple(
            Member(vmid, "", role)
            for vmid, role in [("1", "superlink"), ("2", "supernode"), ("3", "site"), ("4", "site")]
        ),
        (),
    )
    assert lookups.nodes_by_role(service, ()) == {"2"}
    assert lookups.nodes_by_role(service, ("3",)) == {"2", "3", "4"}


def test_an_enrolled_vm_that_is_away_is_asked_for_each_minute_and_then_seldom():
    times = asked_at(Lookup(Standing.AWAY, 0), 3000)
    assert times == [*range(0, 601, 60), 1200, 1800, 2400]


def test_a_settled_vm_is_asked_once_for_what_it_says_when_it_works():
    assert asked_at(Lookup(Standing.SETTLED, 0), 3000) == [60]
    assert asked_at(Lookup(Standing.SETTLED, 100, 99), 3000) == [160]


def test_a_settled_vm_that_has_said_all_is_never_asked_for():
    assert asked_at(Lookup(Standing.SETTLED, 0, told=True), 3000) == []
    looks = lookups.follow({}, {"42": Standing.SETTLED, "43": Standing.SETTLED}, 10, {"43"})
    assert {vmid: look.told for vmid, look in looks.items()} == {"42": False, "43": True}


def test_a_new_standing_begins_its_own_time_and_keeps_when_it_was_asked():
    first = lookups.follow({}, {"42": Standing.UNKNOWN}, 10)
    assert first == {"42": Lookup(Standing.UNKNOWN, 10)}
    asked = {"42": Lookup(Standing.UNKNOWN, 10, 12)}
    assert lookups.follow(asked, {"42": Standing.UNKNOWN}, 20) == asked
    after = lookups.follow(asked, {"42": Standing.AWAY, "43": Standing.UNKNOWN}, 20)
    assert after == {"42": Lookup(Standing.AWAY, 20, 12), "43": Lookup(Standing.UNKNOWN, 20)}
    assert lookups.follow(after, {}, 30) == {}


def test_the_longest_waiting_is_asked_for_first():
    looks = {
        "1": Lookup(Standing.UNKNOWN, 0, 10),
        "2": Lookup(Standing.UNKNOWN, 0, 8),
        "3": Lookup(Standing.UNKNOWN, 9),
        "4": Lookup(Standing.UNKNOWN, 0, 14),
    }
    assert lookups.due(looks, 15, 1.0) == ("3", "2", "1")


def test_a_vm_that_never_enrols_does_not_keep_the_watch_awake():
    looks = {"42": Lookup(Standing.UNKNOWN, 0)}
    assert lookups.unsettled(looks, 599, 1.0)
    assert not lookups.unsettled(looks, 600, 1.0)
    assert not lookups.unsettled({"42": Lookup(Standing.AWAY, 0)}, 1, 1.0)


def test_vms_that_oneflow_has_still_to_deploy_are_missing():
    roles = (("superlink", 1), ("supernode", 3))
    link = Member("41", "superlink_0_(service_7)", "superlink")
    nodes = tuple(Member(str(42 + i), "", "supernode") for i in range(3))
    assert lookups.missing(Service("7", (link,), roles)) == 3
    assert lookups.missing(Service("7", (link, *nodes), roles)) == 0


def absent(times, present=()):
    found = {}
    for now in times:
        found = lookups.absences(found, {"42"}, {"42"} if now in present else {"7"}, now)
    return lookups.gone(found, times[-1], 1.0)


@pytest.mark.parametrize(
    ("times", "present", "expected"),
    [
        ([0, 60, 600], (), {"42"}),
        ([0, 600], (), set()),
        ([0, 1, 2, 599], (), set()),
        ([0, 60, 300, 600], (300,), set()),
        ([0, 60, 300, 360, 960], (300,), {"42"} - {"42"}),
        ([0, 60, 300, 360, 420, 960], (300,), {"42"}),
    ],
)
def test_a_vm_has_left_after_three_complete_answers_over_ten_minutes(times, present, expected):
    assert absent(times, present) == expected


def test_only_pinned_vms_are_missed():
    assert lookups.absences({"43": Absence(1, 0)}, {"42"}, {"41"}, 5) == {"42": Absence(1, 5)}


def test_of_settled_vms_one_is_asked_in_turn_and_one_that_is_in_trouble():
    times = {"42": 30.0, "43": 10.0, "44": None, "45": 20.0, "46": 40.0, "47": 50.0}
    looks = {vmid: Lookup(Standing.SETTLED, 5.0, at) for vmid, at in times.items()}
    looks["48"] = Lookup(Standing.AWAY, 0.0, 0.0)
    assert lookups.in_turn(looks, ()) == ("44",)
    assert lookups.in_turn(looks, ("44",)) == ("44",)
    assert lookups.in_turn(looks, ("47", "45", "46")) == ("44", "45")
    assert lookups.in_turn({}, ("42",)) == ()
