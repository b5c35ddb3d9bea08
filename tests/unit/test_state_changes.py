"""Which changes of the agent's memory stand in the record."""

import dataclasses

from node_key_pairs import public

from flower_agent.model.address import Address
from flower_agent.model.state import Partition, Pin, State
from flower_agent.model.state_changes import changes

PIN = "a" * 64


def said(before, after):
    return [
        (str(each.what), str(each.result), each.name, each.key, each.message)
        for each in changes(before, after)
    ]


def test_an_unchanged_state_is_no_entry():
    full = State(vmid="1", ca_pin=PIN, flower="1.25.0", pins=(Pin("42", public(1), own=True),))
    assert said(full, full) == []
    moved = dataclasses.replace(
        full, vmid="2", partition=Partition(0, 2), superlink=Address("10.0.0.1", 9092)
    )
    assert said(full, moved) == []


def test_the_first_ca_and_another_one_are_entries():
    first = State(ca_pin=PIN)
    assert said(State(), first) == [("trust.ca_pinned", "done", "", PIN, "the first one")]
    assert said(first, State(ca_pin="b" * 64)) == [
        ("trust.ca_pinned", "done", "", "b" * 64, f"instead of {PIN}")
    ]
    assert said(first, State()) == []


def test_the_keys_of_vms_are_entries_when_they_come_change_and_go():
    one, two = public(1), public(2)
    begun = State(pins=(Pin("42", one, own=True),))
    (entry,) = changes(State(), begun)
    assert (str(entry.what), entry.name) == ("key.pinned", "VM 42")
    assert entry.key.startswith("SHA256:")
    changed = State(pins=(Pin("42", two, own=True),))
    assert [row[:3] for row in said(begun, changed)] == [("key.pinned", "done", "VM 42")]
    assert [row[:3] for row in said(changed, State())] == [("key.unpinned", "done", "VM 42")]


def test_versions_are_entries():
    ran = State(flower="1.25.0")
    assert said(State(), ran) == [("flower.version", "done", "", "", "1.25.0")]
    assert said(ran, State(flower="1.26.1")) == [
        ("flower.version", "done", "", "", "from 1.25.0 to 1.26.1")
    ]
    bad = State(flower="1.25.0", refused=("1.26.1", "it ended"))
    assert said(ran, bad) == [
        ("flower.refused", "failed", "", "", "1.26.1 does not work here: it ended")
    ]


def test_pinned_images_and_a_key_that_works_are_entries():
    after = State(images=(("flwr/superlink:1.25.0", "sha256:ab"),), worked_key=public(1))
    assert [row[0] for row in said(State(), after)] == ["key.works", "image.pinned"]


def test_a_key_that_is_none_does_not_stop_the_record():
    (entry,) = changes(State(), State(worked_key="nonsense x"))
    assert entry.key == "unreadable"
