"""A SuperLink sees which nodes refuse its CA, and what mends that."""

import pytest
from node_key_pairs import node, public

from flower_agent.enrolment import expected_nodes, policy, refusals
from flower_agent.enrolment.policy import Claim
from flower_agent.flower.control_messages import NodeStatus
from flower_agent.model.state import Pin
from flower_agent.onegate.discovery import ServiceVm

NEW = "ab" * 32
CHANGED = "tls.ca_changed: OneGate hands over the CA AB:AB, trusted is CD:CD"
PINS = [Pin("42", public(1), own=True), Pin("43", public(2), own=True)]
KNOWN = [node(1), node(2)]


def claim(vmid, error="", state="degraded"):
    told = {"FLOWER_ROLE": "supernode", "FLOWER_STATE": state, "FLOWER_ERROR": error}
    return policy.claim(ServiceVm(vmid, "", told))


def found(*claims, nodes=KNOWN, members=("42", "43")):
    known = {each.vmid: each for each in claims}
    return refusals.finding(nodes, PINS, known, members, NEW)


def test_those_that_refuse_the_ca_are_counted_with_the_loop_that_mends_it():
    seen = found(claim("43", CHANGED), claim("42", CHANGED, "failed"))
    assert seen.code == "trust.nodes_refuse"
    assert seen.message == (
        "2 of 2 SuperNodes of the service refuse this SuperLink's CA: VM 42, VM 43"
    )
    loop = f"for vm in 42 43; do onevm ssh $vm root --cmd 'flower-agent tls trust {NEW}'; done"
    assert seen.hint.endswith(loop)


def test_who_has_another_trouble_does_not_refuse_the_ca():
    assert found(claim("42", "image.pull: no route"), claim("43", state="ready")) is None


@pytest.mark.parametrize("code", sorted(refusals.CODES))
def test_each_way_to_refuse_it_counts(code):
    assert "1 of 1 " in found(claim("42", f"{code}: words")).message


def test_a_node_that_is_connected_trusts_it_whatever_it_said_last():
    online = [node(1, NodeStatus.ONLINE), node(2)]
    assert found(claim("42", CHANGED), nodes=online) is None


def test_a_vm_that_left_the_service_and_one_that_is_no_node_are_not_counted():
    stranger = Claim("43", stranger=True, error=CHANGED)
    assert found(claim("42", CHANGED), stranger, members=("43",)) is None
    assert "1 of 1 " in found(claim("42", CHANGED), stranger, members=None).message


def test_of_many_the_first_are_named_and_the_loop_has_all():
    numbers = [str(n) for n in range(100, 300)]
    seen = found(*(claim(vmid, CHANGED) for vmid in numbers), members=numbers)
    assert seen.message.endswith("VM 104 and 195 more")
    assert f"for vm in {' '.join(numbers)}; do" in seen.hint
    assert seen.hint.endswith("; done")


def test_one_cause_is_told_once():
    told = {"42": claim("42", CHANGED), "43": claim("43", "peer.mtu: packets are dropped")}
    seen = expected_nodes.expected_nodes(KNOWN, PINS, told, ("42", "43"))
    words = "SuperNodes report that they do not work: VM 43 reports degraded, peer.mtu"
    assert [each.message.startswith(words) for each in seen.findings] == [True]
