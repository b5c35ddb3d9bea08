"""The SuperNodes that a SuperLink's status lists."""

import dataclasses
import datetime

import pytest
from node_key_pairs import node, public

from flower_agent.enrolment.policy import Claim
from flower_agent.flower.control_messages import NodeStatus
from flower_agent.model.state import Pin
from flower_agent.reporting import node_table

CAME, LEFT = "2026-03-01T10:00:00+00:00", "2026-03-01T11:00:00.123456+00:00"
UNTIL = datetime.datetime(2026, 3, 1, 10, 30, tzinfo=datetime.UTC)


def listed(nodes, pins=(), claims=(), names=()):
    by_vm = {claim.vmid: claim for claim in claims}
    return node_table.node_table(nodes, pins, by_vm, dict(names))


def dated(number, status, **dates):
    return dataclasses.replace(node(number, status), **dates)


def test_a_node_is_known_by_the_key_that_was_pinned_for_its_vm():
    (row,) = listed(
        [node(1, NodeStatus.ONLINE)],
        [Pin("42", public(1), own=True)],
        [Claim("42", public(1), gpu="2 NVIDIA GPUs"), Claim("43", public(2), gpu="none")],
    )
    assert (row.vmid, row.gpu, row.state, row.seen_at) == ("42", "2 NVIDIA GPUs", "online", None)


def test_of_a_node_without_a_pin_neither_vm_nor_gpu_is_known():
    (row,) = listed([node(1, NodeStatus.ONLINE)], [], [Claim("42", public(1), gpu="x")])
    assert (row.vmid, row.gpu) == (None, None)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("supernode_0_(service_7)", "supernode_0_(service_7)"), ("", None),
        ("\x1b[2Jhospital\u202e", "hospital"), ("x" * 500, "x" * 64 + " […]"),
    ],
)  # fmt: skip
def test_a_node_has_the_name_of_its_vm(name, shown):
    pins = [Pin("42", public(1), own=True)]
    (row,) = listed([node(1, NodeStatus.ONLINE)], pins, names={"42": name, "43": "other"})
    assert row.name == shown
    assert listed([node(1, NodeStatus.ONLINE)], pins)[0].name is None
    assert listed([node(1, NodeStatus.ONLINE)], names={"42": name})[0].name is None


@pytest.mark.parametrize(
    ("dates", "seen"),
    [
        ({}, None),
        ({"last_activated_at": CAME, "last_deactivated_at": LEFT}, "2026-03-01T11:00:00Z"),
        ({"last_activated_at": CAME, "online_until": UNTIL}, "2026-03-01T10:30:00Z"),
        (
            {"last_activated_at": LEFT, "last_deactivated_at": CAME, "online_until": UNTIL},
            "2026-03-01T10:30:00Z",
        ),
        ({"last_activated_at": CAME}, "2026-03-01T10:00:00Z"),
        ({"last_activated_at": "long ago"}, "long ago"),
    ],
)
def test_one_that_is_away_was_there_until_it_said_goodbye_or_its_heartbeats_ended(dates, seen):
    (row,) = listed([dated(1, NodeStatus.OFFLINE, **dates)])
    assert row.seen_at == seen


def test_vms_that_are_away_come_first_and_what_nobody_knows_last():
    nodes = [node(n, NodeStatus.ONLINE if n in (1, 4) else NodeStatus.OFFLINE) for n in range(1, 6)]
    pins = [Pin(vmid, public(n), own=True) for vmid, n in (("9", 1), ("10", 2), ("8", 3))]
    assert [row.vmid for row in listed(nodes, pins)] == ["8", "10", None, "9", None]


def test_one_that_can_never_return_is_not_listed():
    assert listed([node(1, NodeStatus.UNREGISTERED)]) == ()


def test_a_large_federation_is_cut():
    many = [dataclasses.replace(node(1, "online"), node_id=str(n)) for n in range(1000)]
    assert len(listed(many)) == node_table.MOST
