"""Which messages tell of one cause, and what the journal says of a change."""

import contextlib
import dataclasses
import datetime
import pathlib

import pytest
import structlog

from flower_agent import log
from flower_agent.model import deduplication, lifecycle
from flower_agent.model.errors import Finding
from flower_agent.model.lifecycle import LifeState, Phase
from flower_agent.reporting import publisher

NOW = datetime.datetime(2026, 11, 30, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("retrying in 16.15 seconds", "retrying in 8 seconds"),
        ("restarted 3x, next try in 20 s", "restarted 14x, next try in 300 s"),
        ("1048576 bytes left in /var", "12 bytes left in /var"),
        ("pulls: 12.5 MB of 400 MB, 3%", "pulls: 399 MB of 400 MB, 99%"),
        ("next try at 14:05:11", "next try at 15:00:00"),
        ("the round has made no progress for 4 min", "the round has made no progress for 19 min"),
    ],
)
def test_what_was_measured_makes_no_new_cause(one, other):
    assert deduplication.same(Finding("docker.down", one), Finding("docker.down", other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the container ended with exit 1", "the container ended with exit 137"),
        ("nothing listens at 127.0.0.1:9093", "nothing listens at 127.0.0.1:9094"),
        ("127.0.0.1:9093 times out", "127.0.0.1:9094 times out"),
        ("VM 41 is away", "VM 42 is away"),
        ("fd00::10:20:30 is away", "fd00::10:20:31 is away"),
    ],
)
def test_another_number_is_another_cause(one, other):
    assert not deduplication.same(Finding("docker.down", one), Finding("docker.down", other))
    assert not deduplication.same(Finding("docker.down", one), Finding("docker.busy", one))


def test_the_journal_has_one_line_for_a_cause_whatever_its_numbers():
    def waits(seconds):
        return dataclasses.replace(
            lifecycle.born(NOW, 0.0),
            state=LifeState.DEGRADED,
            error=Finding("docker.down", f"no answer; retrying in {seconds} seconds"),
        )

    before = dataclasses.replace(waits(1), error=None)
    journal = publisher.LifecycleLog()
    with structlog.testing.capture_logs() as told:
        for after in (waits(1), waits(2.5), waits(16.15)):
            journal.note(before, after, 0.0)
            before = after
        busy = dataclasses.replace(before, error=Finding("docker.busy", "x"))
        journal.note(before, busy, 1.0)
    assert [each["code"] for each in told] == ["docker.down", "docker.busy"]


def degraded(code, message="x", phase=None):
    error = Finding(code, message) if code else None
    return dataclasses.replace(
        lifecycle.born(NOW, 0.0), state=LifeState.DEGRADED, error=error, phase=phase or Phase.HEALTH
    )


def lived(turns):
    """Return what the journal has of (second, life) pairs, as (second, event, code, times)."""
    journal, before, found = publisher.LifecycleLog(), lifecycle.born(NOW, 0.0), []
    for at, after in turns:
        with structlog.testing.capture_logs() as told:
            journal.note(before, after, float(at))
        before = after
        found += [(at, e["event"], e.get("code"), e.get("times")) for e in told]
    return found


def test_hours_of_one_cause_are_a_line_an_hour_with_a_count():
    turns = [(at, degraded("peer.lost", f"for {at} s")) for at in range(0, 3 * 3600, 10)]
    assert lived(turns) == [
        (0, "state.degraded", "peer.lost", None),
        (3600, "state.cause", "peer.lost", 360),
        (7200, "state.cause", "peer.lost", 360),
    ]


def test_two_causes_that_take_turns_are_two_lines_an_hour():
    both = [degraded("peer.lost"), degraded("container.exited")]
    turns = [(at * 10, both[at % 2]) for at in range(720)]
    assert lived(turns) == [
        (0, "state.degraded", "peer.lost", None),
        (10, "state.cause", "container.exited", None),
        (3600, "state.cause", "peer.lost", 180),
        (3610, "state.cause", "container.exited", 180),
    ]


def test_phases_that_take_turns_are_told_once_an_hour():
    both = [degraded(None, phase=Phase.HEALTH), degraded(None, phase=Phase.PEER)]
    turns = [(at * 10, both[at % 2]) for at in range(300)]
    assert [event for _, event, _, _ in lived(turns)] == ["state.degraded", *["state.phase"] * 2]


def test_another_state_begins_another_story():
    ready = dataclasses.replace(lifecycle.born(NOW, 0.0), state=LifeState.READY)
    turns = [(0, degraded("peer.lost")), (10, ready), (20, degraded("peer.lost")), (30, ready)]
    assert [event for _, event, _, _ in lived(turns)] == [
        "state.degraded", "state.ready", "state.degraded", "state.ready"
    ]  # fmt: skip


def test_what_is_remembered_of_causes_is_bounded():
    repeats = deduplication.Repeats()
    for number in range(10_000):
        assert repeats.due(("x", str(number)), 0.0) == 1
    assert len(repeats._told) == deduplication.MOST


def test_the_same_warning_is_written_hourly_with_a_count_whatever_its_numbers():
    at, kept = [0.0], []
    hourly = log.Hourly(lambda: at[0])
    for minute in range(181):
        at[0] = minute * 60.0
        event = {"event": "image.pull_failed", "image": "x", "reason": f"after {minute} s"}
        try:
            kept.append((minute, hourly(None, "warning", event).get("times")))
        except structlog.DropEvent:
            continue
    assert kept == [(0, None), (60, 60), (120, 60), (180, 60)]


@pytest.mark.parametrize(("method", "written"), [("info", 3), ("error", 3), ("warning", 1)])
def test_changes_and_errors_are_written_each_time(method, written):
    hourly, count = log.Hourly(lambda: 0.0), 0
    for _ in range(3):
        with contextlib.suppress(structlog.DropEvent):
            count += bool(hourly(None, method, {"event": "x", "level": method}))
    assert count == written


def test_what_was_mended_between_is_news_again():
    hourly = log.Hourly(lambda: 0.0)
    failed = {"event": "onegate.failed", "code": "onegate.down"}
    assert hourly(None, "warning", failed)
    assert hourly(None, "info", {"event": "onegate.recovered"})
    assert hourly(None, "warning", failed)
    with pytest.raises(structlog.DropEvent):
        hourly(None, "warning", failed)


@pytest.mark.parametrize("name", [*log.MENDED, *log.MENDED.values()])
def test_what_mends_a_warning_is_an_event_of_the_agent(name):
    files = pathlib.Path(log.__file__).parent.rglob("*.py")
    calls = (f'log.info("{name}"', f'log.warning("{name}"')
    assert any(call in file.read_text("utf-8") for file in files for call in calls)


def test_another_warning_is_written_at_once():
    hourly = log.Hourly(lambda: 0.0)
    for image in ("a", "b"):
        assert hourly(None, "warning", {"event": "image.pull_failed", "image": image})
