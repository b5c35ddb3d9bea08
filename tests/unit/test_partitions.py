"""Which part of the data each SuperNode trains on: what is read, assigned, and wrong with it."""

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from flower_agent.enrolment import partitions
from flower_agent.enrolment.partitions import PartitionNode
from flower_agent.model.state import Partition


def held(*parts):
    """Return the partitions of VM 42 and those after it."""
    return {str(42 + n): Partition(*part) for n, part in enumerate(parts)}


def words(*parts, more=(), whole=True):
    found = partitions.faults(held(*parts), more=more, whole=whole)
    return found.message if found else ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/4", Partition(1, 4)),
        ('"0/1"', Partition(0, 1)),
        ("4/4", None),
        ("", None),
        ("1", None),
        ("1/4 ", None),
        ("-1/4", None),
        ("٣/٤", None),
        ("1/" + "9" * 9, None),
    ],
)
def test_what_a_vm_publishes_is_a_partition_or_nothing(text, expected):
    assert partitions.read(text) == expected


@given(st.text())
def test_anything_may_stand_in_the_attribute(text):
    found = partitions.read(text)
    assert found is None or 0 <= found.partition_id < found.num_partitions


def test_partitions_that_cover_the_data_once_are_no_fault():
    assert words((0, 2), (1, 2)) == ""
    assert words() == ""


def test_a_partition_that_nobody_has_is_named():
    assert words((1, 3), (2, 3)) == "no SuperNode has partition 0 of 3"
    assert words((1, 9)) == "no SuperNode has partition 0, 2, 3, 4, 5 and 3 more of 9"


def test_a_partition_that_two_have_is_named_with_its_vms():
    assert words((0, 2), (1, 2), (1, 2)) == "SuperNodes share a partition: VM 43, VM 44 have 1"


def test_counts_that_differ_are_named_with_their_vms():
    found = words((1, 2), (2, 3), (0, 3))
    assert found == (
        "SuperNodes count partitions differently: VM 42 counts 2; VM 43, VM 44 counts 3"
    )


def test_what_is_not_whole_has_no_gaps():
    assert words((1, 3), whole=False) == ""
    assert words((1, 3), (1, 3), whole=False).startswith("SuperNodes share a partition")


def test_a_site_outside_the_service_may_have_what_no_vm_has():
    assert words((0, 3), (2, 3), more=[1]) == ""


def test_a_count_that_somebody_invented_costs_nothing():
    assert words((3, 99_999_999)).endswith("and 99999993 more of 99999999")


PARTS = st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n)))


@effort(max_examples=300)
@given(st.lists(PARTS, max_size=40))
def test_a_fault_is_told_just_where_the_data_is_not_covered_once(parts):
    counts = {count for _, count in parts}
    once = len({number for number, _ in parts}) == len(parts)
    good = not parts or (len(counts) == 1 and once and len(parts) == min(counts))
    assert (words(*parts) == "") is good
    assert len(words(*parts)) < 1200


# What a SuperLink assigns


def vm(number, has=None, index=None):
    return PartitionNode(str(number), has, index)


def test_a_vm_gets_the_number_that_oneflow_gave_it():
    nodes = [vm(44, index=2), vm(43, index=1)]
    assert partitions.assign({}, 4, nodes, ()) == {"43": 1, "44": 2}


def test_a_node_that_runs_keeps_the_id_that_it_runs_as():
    nodes = [vm(42, index=0), vm(43, has=0, index=1)]
    assert partitions.assign({}, 2, nodes, ()) == {"42": 1, "43": 0}


def test_an_id_is_free_when_its_vm_has_left_and_not_while_it_is_away():
    before = {"42": 0, "43": 1}
    newcomer = [vm(43), vm(44, index=2)]
    assert partitions.assign(before, 2, newcomer, ()) == before
    assert partitions.assign(before, 2, newcomer, {"42"}) == {"43": 1, "44": 0}


def test_a_smaller_count_gives_those_beyond_it_a_free_id():
    before = {"42": 0, "43": 1, "44": 2}
    nodes = [vm(42, 0), vm(44, 2), vm(45, None, 3)]
    assert partitions.assign(before, 2, nodes, {"43"}) == {"42": 0, "44": 1}


def test_sites_get_the_last_ids_so_that_vms_keep_their_numbers():
    nodes = [PartitionNode("SHA256:b"), vm(42, index=0), PartitionNode("SHA256:a"), vm(43, index=1)]
    ids = partitions.assign({}, 4, nodes, ())
    assert ids == {"42": 0, "43": 1, "SHA256:a": 3, "SHA256:b": 2}


def test_an_id_that_somebody_says_to_run_as_is_given_to_nobody_else():
    before = {"42": 0}
    assert partitions.assign(before, 3, [vm(42, has=2), vm(43, index=2)], ()) == {"42": 0, "43": 1}


OWNERS = st.integers(40, 60).map(str) | st.sampled_from(["SHA256:a", "SHA256:b", "SHA256:c"])
IDS = st.none() | st.integers(0, 30)
NODES = st.lists(
    st.builds(PartitionNode, OWNERS, IDS, IDS), max_size=15, unique_by=lambda n: n.owner
)
BEFORE = st.dictionaries(OWNERS, st.integers(0, 30), max_size=15)


@effort(max_examples=400)
@given(BEFORE, st.integers(1, 20), NODES, st.sets(OWNERS), st.randoms())
def test_whatever_was_before_ids_are_given_once_kept_and_below_the_count(
    before, count, nodes, left, rng
):
    ids = partitions.assign(before, count, nodes, left)
    assert len(set(ids.values())) == len(ids), "an id is given once"
    assert all(0 <= number < count for number in ids.values())
    assert not left & ids.keys()
    whole = [o for o in before if o not in left and before[o] < count]
    if len({before[o] for o in whole}) == len(whole):
        assert {o: ids[o] for o in whole} == {o: before[o] for o in whole}, "nobody moves"
    shuffled = rng.sample(nodes, len(nodes))
    assert partitions.assign(before, count, shuffled, left) == ids, "the order says nothing"
    assert partitions.assign(ids, count, nodes, left) == ids, "and a second look changes nothing"
    waiting = [n for n in nodes if n.owner not in ids and n.owner not in left]
    taken = set(ids.values()) | {n.has for n in nodes}
    assert not waiting or taken >= set(range(count)), "nobody waits while an id is free"


@effort(max_examples=300)
@given(BEFORE, st.integers(31, 40))
def test_what_is_published_is_read_back(before, count):
    ids = partitions.assign(before, count, (), ())
    offer = partitions.read_assignment(partitions.write(count, ids))
    assert (offer.count, offer.taken, offer.full) == (count, len(ids), len(ids) == count)
    for vmid in map(str, range(38, 62)):
        assert offer.id_of(vmid) == ids.get(vmid)
    assert offer.id_of("SHA256:a") is None


def test_vms_in_a_row_are_published_in_short():
    ids = {str(1000 + n): n for n in range(900)} | {"5000": 901, "SHA256:a": 950}
    assert partitions.write(1000, ids) == "1000;1000-1899:0;5000:901;site:950"
    assert partitions.write(3, {}) == "3"


@pytest.mark.parametrize(
    "text",
    ["", '""', "x", "0", "-1", "10001", "4;", "4;42", "4;42:4", "4;43-42:0", "4;42-46:0", "4;a:1"],
)
def test_what_is_no_assignment_is_none(text):
    assert partitions.read_assignment(text) is None


@given(st.text(alphabet="0123456789:;-site", max_size=60))
def test_anything_may_stand_where_an_assignment_is_published(text):
    offer = partitions.read_assignment(text)
    assert offer is None or all(n + high - low < offer.count for low, high, n in offer.spans)


def test_the_largest_assignment_is_not_cut():
    ids = {str(10**9 + 2 * n): n for n in range(10_000)}
    text = partitions.write(10_000, ids)
    assert len(text) < partitions.MAX_CHARACTERS
    assert partitions.read_assignment(text).full


# What a node makes of that


FOUR = partitions.read_assignment("4;42-43:0;45:3")


@pytest.mark.parametrize(
    ("vmid", "have", "running", "between", "expected"),
    [
        ("42", None, False, False, Partition(0, 4)),
        ("44", None, False, True, None),
        ("43", Partition(0, 2), False, False, Partition(1, 4)),
        ("43", Partition(0, 2), True, False, Partition(0, 2)),
        ("43", Partition(0, 2), True, True, Partition(0, 4)),
        ("43", Partition(7, 9), True, True, Partition(1, 4)),
        ("44", Partition(7, 9), True, True, Partition(7, 9)),
        ("44", Partition(1, 2), True, True, Partition(1, 4)),
    ],
)
def test_a_node_that_runs_changes_between_runs_alone_and_keeps_its_id(
    vmid, have, running, between, expected
):
    assert partitions.of_node(FOUR, vmid, have, running=running, between=between) == expected


@given(BEFORE, st.integers(1, 40), PARTS, st.booleans())
def test_no_assignment_changes_the_id_of_a_node_that_runs(before, count, have, between):
    ids = partitions.assign(before, count, (), ())
    offer, part = partitions.read_assignment(partitions.write(count, ids)), Partition(*have)
    for vmid in ("42", "50", "99"):
        found = partitions.of_node(offer, vmid, part, running=True, between=between)
        if part.partition_id < count or not between:
            assert found.partition_id == part.partition_id
        assert found.num_partitions in (count, part.num_partitions)
        assert between or found == part


@pytest.mark.parametrize(
    ("run", "between"),
    [
        ("", True),
        ("finished", True),
        ("finished with failures: round 2: 1 of 2 results: ValueError", True),
        ("stopped", True),
        ("failed: ValueError", True),
        ("waiting 1 of 2 nodes", True),
        ("preparing", True),
        ("running 3 of 10", False),
        ("submitting", False),
        ("something new", False),
    ],
)
def test_a_run_that_may_compute_is_active(run, between):
    assert partitions.between_runs(run) is between
