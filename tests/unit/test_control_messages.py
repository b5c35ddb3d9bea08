"""What the Control API says about nodes and runs, from bytes put together by hand."""

import datetime

import pytest

from flower_agent.flower import control_messages, wire
from flower_agent.flower.control_messages import RunInfo, RunStatus

BIG_ID = 2**64 - 5


def a_node(*extra, node_id=BIG_ID, status="online", until=1_800_000_000.5):
    return wire.encode(
        (1, node_id),
        (2, "owner"),
        (4, status),
        (5, "2025-11-24T10:00:00+00:00"),
        (6, "2025-11-24T10:01:00+00:00"),
        (9, until),
        (10, 30.0),
        (11, b"-----BEGIN PUBLIC KEY-----"),
        *extra,
    )


def nodes(*messages):
    return wire.encode(*((1, message) for message in messages), (2, "2025-11-24T10:02:00"))


def a_run(run_id, *, pending_at, status="running", sub_status="", details=""):
    outcome = wire.encode((1, status), (2, sub_status), (3, details))
    run = wire.encode(
        (1, run_id),
        (2, "flwrlabs/quickstart"),
        (3, "1.0.0"),
        (4, wire.encode((1, "lr"), (2, b""))),
        (5, "abc"),
        (6, pending_at),
        (10, outcome),
        (12, "default"),
    )
    return wire.encode((1, run_id), (2, run))


def runs(*entries):
    return wire.encode(*((1, entry) for entry in entries))


def test_a_node_is_read_with_its_id_as_unsigned_text():
    (node,) = control_messages.decode_nodes(nodes(a_node()))
    assert node == control_messages.NodeInfo(
        node_id="18446744073709551611",
        status=control_messages.NodeStatus.ONLINE,
        registered_at="2025-11-24T10:00:00+00:00",
        last_activated_at="2025-11-24T10:01:00+00:00",
        online_until=datetime.datetime(2027, 1, 15, 8, 0, 0, 500000, datetime.UTC),
        public_key=b"-----BEGIN PUBLIC KEY-----",
    )
    assert node.status is control_messages.NodeStatus.ONLINE


def test_a_node_of_1_23_which_lacks_its_owners_name_is_read_alike():
    old = wire.encode(
        (1, BIG_ID),
        (2, "<none>"),
        (3, "online"),
        (4, "2025-11-24T10:00:00+00:00"),
        (5, "2025-11-24T10:01:00+00:00"),
        (8, 1_800_000_000.5),
        (9, 30.0),
        (10, b"-----BEGIN PUBLIC KEY-----"),
    )
    assert control_messages.decode_nodes(nodes(old)) == control_messages.decode_nodes(
        nodes(a_node())
    )


@pytest.mark.parametrize("owner", ["alice", "online"])
def test_an_owner_may_have_any_name(owner):
    named = control_messages.decode_nodes(nodes(a_node((3, owner), status="offline")))
    assert named[0].status is control_messages.NodeStatus.OFFLINE


def test_a_superlink_without_nodes_gives_none():
    assert control_messages.decode_nodes(b"") == ()
    assert control_messages.decode_nodes(nodes()) == ()


def test_fields_that_a_newer_flower_adds_are_skipped():
    newer = a_node((12, wire.encode((1, 1.5))), (13, "berlin"))
    assert control_messages.decode_nodes(nodes(newer)) == control_messages.decode_nodes(
        nodes(a_node())
    )


def test_a_status_that_we_do_not_know_stays_text():
    (node,) = control_messages.decode_nodes(nodes(a_node(status="sleeping")))
    assert node.status == "sleeping"
    assert not isinstance(node.status, control_messages.NodeStatus)


@pytest.mark.parametrize("until", [0.0, float("nan"), float("inf"), -1e300])
def test_a_node_that_was_never_online_or_lies_has_no_date(until):
    (node,) = control_messages.decode_nodes(nodes(a_node(until=until)))
    assert node.online_until is None


def test_runs_come_oldest_first_whatever_the_order_of_the_map():
    later = a_run(7, pending_at="2025-11-24T12:00:00")
    earlier = a_run(9, pending_at="2025-11-24T11:00:00")
    assert [run.run_id for run in control_messages.decode_runs(runs(later, earlier))] == ["9", "7"]


def test_a_failed_run_says_why_and_is_not_active():
    entry = a_run(
        1, pending_at="x", status="finished", sub_status="failed", details="No heartbeat received"
    )
    (run,) = control_messages.decode_runs(runs(entry))
    assert run.status is control_messages.RunStatus.FINISHED
    assert (run.sub_status, run.details) == ("failed", "No heartbeat received")
    assert (run.fab_id, run.fab_version, run.fab_hash) == ("flwrlabs/quickstart", "1.0.0", "abc")
    assert run.federation == "default"
    assert not run.active


@pytest.mark.parametrize("status", ["pending", "starting", "running", "paused"])
def test_a_run_that_has_not_finished_is_active(status):
    (run,) = control_messages.decode_runs(runs(a_run(1, pending_at="x", status=status)))
    assert run.active


@pytest.mark.parametrize("decode", [control_messages.decode_nodes, control_messages.decode_runs])
def test_an_answer_of_another_program_is_a_value_error(decode):
    with pytest.raises(ValueError, match="wire type"):
        decode(b"<html>not found</html>")


def test_a_request_names_run_and_limit_only_when_given():
    assert control_messages.encode_list_runs() == b""
    assert wire.decode(control_messages.encode_list_runs(limit=500)).fields == ((2, 500),)
    assert wire.decode(control_messages.encode_list_runs(run_id=str(BIG_ID))).fields == (
        (1, BIG_ID),
    )


def test_a_run_is_stopped_by_its_unsigned_id():
    assert wire.decode(control_messages.encode_stop_run(str(BIG_ID))).fields == ((1, BIG_ID),)


NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def ended(seconds_ago):
    at = (NOW - datetime.timedelta(seconds=seconds_ago)).isoformat()
    return RunInfo(run_id="7", status=RunStatus.FINISHED, finished_at=at)


def test_an_active_run_needs_its_superlink_and_one_that_ended_long_ago_does_not():
    assert RunInfo(run_id="7", status=RunStatus.RUNNING).needs_superlink(NOW)
    assert RunInfo(run_id="7", status="a state of tomorrow").needs_superlink(NOW)
    assert not ended(31).needs_superlink(NOW)


def test_a_run_that_has_just_ended_keeps_it_for_those_who_read_its_log():
    assert ended(0).needs_superlink(NOW)
    assert ended(29).needs_superlink(NOW)


def test_a_run_without_a_date_or_from_before_the_clock_was_set_keeps_nothing():
    assert not RunInfo(run_id="7", status=RunStatus.FINISHED).needs_superlink(NOW)
    assert not ended(-3600).needs_superlink(NOW)
