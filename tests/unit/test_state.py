"""What is remembered across reboots, and what a cloned disk may keep of it."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from flower_agent.model import state
from flower_agent.model.address import Address
from flower_agent.model.state import AppNeeds, Partition, Pin, State

KEY = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAA"
    "BBBI5TO2+gv3tGJbswZnwB+2B++fi4qA/vWzAGKHAxh7Kjc+sdveAzGDZtBp+DpvWQAFPHNjPLBBshxV4ahsH0ALQ="
)
WHOLE = State(
    vmid="29",
    partition=Partition(1, 3),
    assigned=True,
    superlink=Address("fd00::1", 9092),
    superlink_vmid="28",
    ca_pin="ab" * 32,
    in_service=True,
    pins=(Pin("30", KEY, own=True), Pin("31", KEY, own=False)),
    partitions=(("30", 2), ("SHA256:a", 0)),
    superlink_auth=False,
    worked_key=KEY,
    images=(("flwr/superexec:1.25.0", "sha256:aa"), ("flwr/supernode:1.25.0", "sha256:bb")),
    flower="1.25.0",
    refused=("1.34.0", "flower-superlink ended with status 1"),
    app=AppNeeds("https://git.example.org/app@main", "c" * 40, "me/mine 1.0", ("tabulate>=0.9",)),
    app_image=("flower-agent/superexec:1.25.0-app-0123456789ab", "sha256:cc"),
)


@pytest.mark.parametrize("kept", [WHOLE, State()])
def test_what_is_written_is_read_back(kept):
    assert state.load(state.dump(kept)) == kept


def test_the_file_says_what_it_is():
    assert json.loads(state.dump(WHOLE)) == {
        "schema": 1,
        "vmid": "29",
        "partition": {"partition_id": 1, "num_partitions": 3},
        "superlink": "[fd00::1]:9092",
        "superlink_vmid": "28",
        "ca_pin": "ab" * 32,
        "in_service": True,
        "pins": {"30": {"key": KEY, "own": True}, "31": {"key": KEY, "own": False}},
        "assigned": True,
        "partitions": {"30": 2, "SHA256:a": 0},
        "superlink_auth": False,
        "worked_key": KEY,
        "images": {"flwr/superexec:1.25.0": "sha256:aa", "flwr/supernode:1.25.0": "sha256:bb"},
        "flower": "1.25.0",
        "refused": ["1.34.0", "flower-superlink ended with status 1"],
        "app": {
            "source": "https://git.example.org/app@main",
            "commit": "c" * 40,
            "app": "me/mine 1.0",
            "dependencies": ["tabulate>=0.9"],
        },
        "app_image": ["flower-agent/superexec:1.25.0-app-0123456789ab", "sha256:cc"],
    }


def test_the_same_record_is_the_same_file():
    backwards = State(images=tuple(reversed(WHOLE.images)))
    assert state.dump(backwards) == state.dump(State(images=WHOLE.images))


def test_a_file_of_another_agent_may_hold_more():
    document = {**json.loads(state.dump(WHOLE)), "later": {"a": 1}}
    assert state.load(json.dumps(document).encode()) == WHOLE


def test_a_file_of_an_agent_that_knew_no_assigned_partitions_is_read():
    document = json.loads(state.dump(WHOLE))
    del document["assigned"], document["partitions"]
    before = dataclasses.replace(WHOLE, assigned=False, partitions=())
    assert state.load(json.dumps(document).encode()) == before


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xff", b"[]", b"{", b"null", b"1", b'{"images": []}', b'{"images": null}'),
        b'{"images": {}, "refused": "no"}',
        b'{"images": {}, "partition": {"partition_id": 1e999, "num_partitions": 1}}',
        b'{"images": {}, "pins": {"30": {"key": "no key", "own": true}}}',
        b'{"images": {}, "in_service": "yes"}',
        b'{"images": {}, "partitions": {"30": "2"}}',
        b'{"images": {}, "partitions": {"30": -1}}',
        b'{"images": {}, "app": {"source": "a", "commit": "b", "app": "c"}}',
        b'{"images": {}, "app": {"source": 1, "commit": "b", "app": "c", "dependencies": []}}',
    ],
)
def test_anything_else_is_not_a_state_file(data):
    with pytest.raises(ValueError, match="not a state file"):
        state.load(data)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
odd = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=5), scalars)


@effort(max_examples=50)
@given(st.dictionaries(st.sampled_from([*json.loads(state.dump(WHOLE))]), odd))
def test_a_damaged_file_is_read_or_refused(differences):
    document = {**json.loads(state.dump(WHOLE)), **differences}
    try:
        found = state.load(json.dumps(document).encode())
    except ValueError:
        return
    assert state.load(state.dump(found)) == found


@pytest.mark.parametrize("vmid", ["29", None])
def test_the_same_vm_keeps_everything_even_without_its_token(vmid):
    assert state.for_vm(WHOLE, vmid) == (WHOLE, False)


def test_a_first_token_makes_the_record_this_vms():
    found, cloned = state.for_vm(State(ca_pin="ab"), "29")
    assert (found, cloned) == (State(vmid="29", ca_pin="ab"), False)


def test_a_cloned_disk_gets_a_partition_of_its_own_and_keeps_its_trust():
    found, cloned = state.for_vm(WHOLE, "30")
    assert cloned
    assert (found.vmid, found.partition, found.assigned) == ("30", None, False)
    assert found.partitions == WHOLE.partitions
    assert (found.ca_pin, found.images) == (WHOLE.ca_pin, WHOLE.images)
    assert (found.pins, found.superlink_auth) == (WHOLE.pins, WHOLE.superlink_auth)
    assert (found.in_service, found.worked_key) == (None, None)


def test_a_clone_is_told_once():
    found, _ = state.for_vm(WHOLE, "30")
    assert state.for_vm(state.load(state.dump(found)), "30") == (found, False)
