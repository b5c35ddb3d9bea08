"""Which messages tell of one cause, and what the journal says of a change."""

import dataclasses
import datetime

import pytest
import structlog

from flower_agent.errors import Finding
from flower_agent.reporting import gist, life, publisher
from flower_agent.reporting.life import State

NOW = datetime.datetime(2026, 11, 30, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("retrying in 16.15 seconds", "retrying in 8 seconds"),
        ("restarted 3x, next try in 20 s", "restarted 14x, next try in 300 s"),
        ("1048576 bytes left in /var", "12 bytes left in /var"),
        ("pulls: 12.5 MB of 400 MB, 3%", "pulls: 399 MB of 400 MB, 99%"),
        ("next try at 14:05:11", "next try at 15:00:00"),
        ("the round stands still for 4 min", "the round stands still for 19 min"),
    ],
)
def test_what_was_measured_makes_no_new_cause(one, other):
    assert gist.same(Finding("docker.down", one), Finding("docker.down", other))


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
    assert not gist.same(Finding("docker.down", one), Finding("docker.down", other))
    assert not gist.same(Finding("docker.down", one), Finding("docker.busy", one))


def test_the_journal_has_one_line_for_a_cause_whatever_its_numbers():
    def waits(seconds):
        return dataclasses.replace(
            life.born(NOW, 0.0),
            state=State.DEGRADED,
            error=Finding("docker.down", f"no answer; retrying in {seconds} seconds"),
        )

    before = dataclasses.replace(waits(1), error=None)
    with structlog.testing.capture_logs() as told:
        for after in (waits(1), waits(2.5), waits(16.15)):
            publisher.log_change(before, after)
            before = after
        publisher.log_change(before, dataclasses.replace(before, error=Finding("docker.busy", "x")))
    assert [each["code"] for each in told] == ["docker.down", "docker.busy"]
