"""Which keys a SuperLink should know, and the steps to it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from node_key_pairs import CURVES, node, pem_of, public

from flower_agent.enrolment import policy
from flower_agent.enrolment.policy import Claim, KeyAction
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.model import pem
from flower_agent.model.state import Pin
from flower_agent.onegate.discovery import ServiceVm

ONLINE, OFFLINE, GONE = NodeStatus.ONLINE, NodeStatus.OFFLINE, NodeStatus.UNREGISTERED


def peer(**attributes):
    return ServiceVm("42", "supernode_0_(service_7)", attributes)


def decide(pins=(), claims=(), given=(), nodes=(), gone=()):
    return policy.decide(pins, claims, given, policy.by_key(nodes), gone=gone)


def shown(decision):
    return [(step.action.value, step.key, step.cause) for step in decision.steps]


def codes(decision):
    return [finding.code for finding in decision.findings]


# What a VM publishes


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_a_public_key_becomes_the_bytes_that_flower_compares(curve):
    assert pem.node_key_pem(public(5, curve)) == pem_of(5, curve)
    shown = pem.node_key_fingerprint(public(5, curve))
    assert pem.fingerprint_of_pem(pem_of(5, curve)) == shown


@pytest.mark.parametrize("data", [b"", b"junk", pem_of(1)[:-40], b"-\nAAAA\n-"])
def test_what_is_no_key_has_no_fingerprint(data):
    with pytest.raises(ValueError):  # noqa: PT011  # base64's own or ours
        pem.fingerprint_of_pem(data)


def test_a_key_is_read_as_onegate_keeps_it():
    assert policy.claim(peer(FLOWER_NODE_KEY=public(1))) == Claim("42", public(1), index=0)
    told = peer(FLOWER_ROLE="supernode", FLOWER_NODE_KEY=f'"{public(1)}"')
    assert policy.claim(told).key == public(1)


@pytest.mark.parametrize("attributes", [{}, {"FLOWER_NODE_KEY": '""'}, {"FLOWER_ROLE": '""'}])
def test_a_vm_that_publishes_no_key_yet_claims_none(attributes):
    assert policy.claim(peer(**attributes)) == Claim("42", index=0)


@pytest.mark.parametrize(
    "text", ["ssh-ed25519 AAAA", "x" * 10_000, public(1)[:-4], f"{public(1)},{public(2)}", "\a"]
)
def test_what_is_no_key_is_refused_and_said(text):
    found = policy.claim(peer(FLOWER_NODE_KEY=text))
    assert found.key is None
    decision = decide(claims=[found])
    assert (decision.steps, decision.pins, codes(decision)) == ((), (), ["enrol.key_refused"])
    assert "VM 42" in decision.findings[0].message
    assert text not in decision.findings[0].message


def test_a_vm_of_another_role_claims_no_key_whatever_it_publishes():
    told = peer(FLOWER_ROLE="superlink", FLOWER_NODE_KEY=public(1))
    assert policy.claim(told) == Claim("42", stranger=True, says="superlink")
    lone = peer(FLOWER_ROLE="superexec", FLOWER_NODE_KEY=public(1))
    assert policy.claim(lone) == Claim("42", stranger=True)


@pytest.mark.parametrize("role", ["superexec", "superlink", "x\x1b[2J"])
def test_oneflows_role_counts_more_than_a_word_that_any_vm_can_write(role):
    found = policy.claim(peer(FLOWER_ROLE=role, FLOWER_NODE_KEY=public(1)), is_node=True)
    assert (found.key, found.stranger) == (public(1), False)
    decision = decide(claims=[found])
    assert shown(decision) == [("register", public(1), "VM 42")]
    assert codes(decision) == ["enrol.stranger"]
    assert "VM 42 publishes " in decision.findings[0].message
    assert decision.findings[0].message.isprintable()


def test_many_strangers_are_one_warning():
    claims = [Claim(str(number), stranger=True, says="x") for number in range(100)]
    (found,) = decide(claims=claims).findings
    assert "VM 4 publishes x, and 95 more" in found.message
    assert decide(claims=[Claim("42", stranger=True)]).findings == ()


def test_what_a_vm_says_of_its_gpus_is_cut_and_printable():
    told = "1 NVIDIA GPU: A10\x1b[2J" + "x" * 300
    found = policy.claim(peer(FLOWER_GPU=told, FLOWER_NODE_KEY=public(1))).gpu
    assert found.startswith("1 NVIDIA GPU: A10[2Jxxx")
    assert len(found) < 200
    assert policy.claim(peer(FLOWER_GPU=told)).gpu == found


# What follows


def test_the_key_of_a_vm_is_pinned_and_registered():
    decision = decide(claims=[Claim("42", public(1))])
    assert shown(decision) == [("register", public(1), "VM 42")]
    assert decision.pins == (Pin("42", public(1), own=True),)
    assert str(decision.steps[0]).startswith("register SHA256:")


def test_a_key_that_somebody_registered_already_is_pinned_and_not_the_agents_own():
    decision = decide(claims=[Claim("42", public(1))], nodes=[node(1, ONLINE)])
    assert (decision.steps, decision.pins) == ((), (Pin("42", public(1), own=False),))


def test_another_key_of_a_pinned_vm_is_refused_and_said():
    pins = [Pin("42", public(1), own=True)]
    decision = decide(pins, [Claim("42", public(2))], nodes=[node(1, OFFLINE)])
    assert (decision.steps, decision.pins) == ((), tuple(pins))
    assert codes(decision) == ["enrol.key_changed"]
    for number in (1, 2):
        assert pem.node_key_fingerprint(public(number)) in decision.findings[0].message
    assert "damaged" not in decision.findings[0].message


def test_a_node_that_lost_its_key_is_said_to_have_lost_it():
    told = peer(FLOWER_NODE_KEY=public(2), FLOWER_WARNING="enrol.key_damaged: x was damaged")
    pins = [Pin("42", public(1), own=True)]
    decision = decide(pins, [policy.claim(told)], nodes=[node(1, OFFLINE)])
    assert codes(decision) == ["enrol.key_changed"]
    assert "it reports that the previous key was damaged" in decision.findings[0].message
    assert "nodes unregister" in decision.findings[0].hint


def test_what_a_vm_publishes_is_no_matter_while_its_pinned_node_is_online():
    pins = [Pin("42", public(1), own=True)]
    decision = decide(pins, [Claim("42", public(2))], nodes=[node(1, ONLINE)])
    assert (decision.steps, decision.findings) == ((), ())


def test_a_lost_database_gets_every_key_again():
    pins = [Pin("42", public(1), own=True), Pin("43", public(2), own=False)]
    decision = decide(pins, given=[public(3)])
    assert [step.key for step in decision.steps] == [public(1), public(2), public(3)]
    assert [pin.own for pin in decision.pins] == [True, True]


def test_the_keys_of_nodes_outside_the_service_are_registered():
    decision = decide(given=[public(3)])
    assert shown(decision) == [("register", public(3), "FLOWER_NODE_PUBLIC_KEYS")]
    assert decision.pins == ()


def test_a_given_key_that_was_unregistered_is_said_and_not_offered_again():
    decision = decide(given=[public(3)], nodes=[node(3, GONE)])
    assert (decision.steps, codes(decision)) == ((), ["enrol.key_spent"])


def test_a_pin_whose_key_was_unregistered_makes_room_for_a_new_key():
    pins = [Pin("42", public(1), own=True)]
    old = decide(pins, [Claim("42", public(1))], nodes=[node(1, GONE)])
    assert (old.steps, old.pins) == ((), ())
    new = decide(old.pins, [Claim("42", public(2))], nodes=[node(1, GONE)])
    assert shown(new) == [("register", public(2), "VM 42")]


def test_the_key_of_a_vm_that_left_is_unregistered_and_then_forgotten():
    pins = [Pin("42", public(1), own=True)]
    leaving = decide(pins, nodes=[node(1, OFFLINE)], gone=["42"])
    assert shown(leaving) == [("unregister", public(1), "VM 42 has left the service")]
    assert leaving.steps[0].node_id == str(2**63 + 1)
    assert leaving.pins == tuple(pins)
    assert decide(leaving.pins, nodes=[node(1, GONE)], gone=["42"]).pins == ()


@pytest.mark.parametrize(
    ("pin", "status", "given", "kept"),
    [
        (Pin("42", public(1), own=True), ONLINE, (), True),
        (Pin("42", public(1), own=False), OFFLINE, (), False),
        (Pin("42", public(1), own=True), OFFLINE, (public(1),), False),
    ],
    ids=["online", "another's", "given"],
)
def test_a_node_is_not_unregistered_while_it_is_online_or_not_the_agents(pin, status, given, kept):
    decision = decide([pin], given=given, nodes=[node(1, status)], gone=["42"])
    assert decision.steps == ()
    assert decision.pins == ((pin,) if kept else ())


def test_a_key_that_another_vm_has_too_stays_registered():
    pins = [Pin("42", public(1), own=True), Pin("43", public(1), own=True)]
    decision = decide(pins, nodes=[node(1, OFFLINE)], gone=["42"])
    assert (decision.steps, [pin.vmid for pin in decision.pins]) == ((), ["43"])


def test_a_vm_that_is_gone_is_not_pinned_again_by_its_last_words():
    decision = decide(claims=[Claim("42", public(1))], gone=["42"])
    assert (decision.steps, decision.pins) == ((), ())


# Properties

numbers = st.integers(1, 5)
vmids = st.sampled_from(["41", "42", "43", "9", "x"])
pins = st.lists(
    st.builds(Pin, vmids, numbers.map(public), own=st.booleans()), unique_by=lambda p: p.vmid
)
claims = st.lists(
    st.builds(Claim, vmids, st.none() | numbers.map(public)), unique_by=lambda c: c.vmid
)
nodes = st.lists(
    st.builds(node, numbers, st.sampled_from(NodeStatus)), unique_by=lambda n: n.public_key
)
worlds = st.fixed_dictionaries(
    {
        "pins": pins,
        "claims": claims,
        "given": st.lists(numbers.map(public), unique=True, max_size=2),
        "nodes": nodes,
        "gone": st.frozensets(vmids),
    }
)


def applied(world, decision):
    """Return the world after the steps, as Flower does them."""
    known = policy.by_key(world["nodes"])
    for step in decision.steps:
        key = pem.node_key_pem(step.key)
        if step.action is KeyAction.REGISTER:
            assert key.strip() not in known, "a key in use is refused"
            known[key.strip()] = NodeInfo(node_id="7", status=NodeStatus.REGISTERED, public_key=key)
        else:
            before = known[key.strip()]
            assert before.node_id == step.node_id
            assert before.status is not NodeStatus.UNREGISTERED, "an unknown node is refused"
            known[key.strip()] = dataclasses.replace(before, status=NodeStatus.UNREGISTERED)
    return {**world, "nodes": tuple(known.values()), "pins": decision.pins}


@effort(max_examples=300, deadline=None)
@given(worlds)
def test_applied_steps_leave_no_steps(world):
    after = applied(world, decide(**world))
    again = decide(**after)
    assert again.steps == ()
    assert decide(**{**after, "pins": again.pins}).pins == again.pins


@effort(max_examples=300, deadline=None)
@given(worlds)
def test_only_what_the_agent_registered_and_what_left_is_unregistered(world):
    known = policy.by_key(world["nodes"])
    own = {p.key for p in world["pins"] if p.own and p.vmid in world["gone"]}
    stay = {p.key for p in world["pins"] if p.vmid not in world["gone"]} | {*world["given"]}
    for step in decide(**world).steps:
        if step.action is KeyAction.UNREGISTER:
            assert step.key in own - stay
            assert policy.node_of(step.key, known).status is not ONLINE


@effort(max_examples=300, deadline=None)
@given(worlds)
def test_a_pin_changes_only_when_its_key_was_unregistered(world):
    known = policy.by_key(world["nodes"])
    after = {pin.vmid: pin.key for pin in decide(**world).pins}
    for pin in world["pins"]:
        node = policy.node_of(pin.key, known)
        spent = node is not None and node.status is GONE
        if pin.vmid not in world["gone"] and not spent:
            assert after[pin.vmid] == pin.key
