"""A container that ends again and again rests longer each time."""

import datetime

import pytest

from flower_agent.docker.containers import Existing
from flower_agent.reconcile.restart_policy import (
    LONGEST_DELAY_S,
    LOOP_AT,
    Trouble,
    count,
    delay_s,
    refused,
)

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
NAME = "flower-superexec"


def ended(at_s, *, lived_s=1.0, status="exited", mine=True, name=NAME, code=None):
    """Return a container that ended `at_s` seconds after `START`."""
    finished = START + datetime.timedelta(seconds=at_s)
    return Existing(
        name=name,
        container_id="c0ffee",
        mine=mine,
        status=status,
        exit_code=code,
        started_at=finished - datetime.timedelta(seconds=lived_s),
        finished_at=finished,
    )


def crashes(times, *, lived_s=1.0, scale=1.0):
    """Return the seconds that are waited after each of `times` ends."""
    known, now, waits = {}, 1000.0, []
    for _ in range(times):
        now += lived_s * scale
        known = count(known, (ended(now, lived_s=lived_s * scale),), now=now, scale=scale)
        waits.append(known[NAME].not_before - now)
        now = known[NAME].not_before
    return waits


def test_the_first_restart_is_at_once_and_the_waits_double_to_five_minutes():
    assert crashes(9) == [0, 10, 20, 40, 80, 160, 300, 300, 300]


def test_ten_minutes_of_life_forget_what_was_before():
    known = count({}, (ended(0),), now=0)
    known = count(known, (ended(20),), now=20)
    assert known[NAME].failures == 2
    known = count(known, (ended(700, lived_s=600),), now=700)
    assert known[NAME] == Trouble(1, START + datetime.timedelta(seconds=700), 700, "None")


def test_a_second_less_than_ten_minutes_forgets_nothing():
    known = count({}, (ended(0),), now=0)
    assert count(known, (ended(599, lived_s=599),), now=599)[NAME].failures == 2


def test_an_end_that_is_seen_twice_counts_once():
    once = count({}, (ended(0),), now=5)
    assert count(once, (ended(0),), now=300) == once


def test_the_same_end_goes_on_resting_while_the_clock_moves():
    known = count({}, (ended(0),), now=0)
    known = count(known, (ended(10),), now=10)
    assert count(known, (ended(10),), now=15)[NAME].not_before == 20


def test_a_running_container_keeps_its_past():
    known = count({}, (ended(0),), now=0)
    assert count(known, (ended(5, status="running"),), now=5) == known


@pytest.mark.parametrize("status", ["running", "paused", "created", "restarting", "removing"])
def test_only_an_end_is_an_end(status):
    assert count({}, (ended(0, status=status),), now=0) == {}


def test_a_dead_container_has_ended_too():
    assert count({}, (ended(0, status="dead"),), now=0)[NAME].failures == 1


def test_the_ends_of_other_peoples_containers_do_not_count():
    assert count({}, (ended(0, mine=False),), now=0) == {}


def test_each_container_has_its_own_count():
    known = count({}, (ended(0), ended(0, name="flower-supernode")), now=0)
    known = count(known, (ended(9),), now=9)
    assert {name: t.failures for name, t in known.items()} == {NAME: 2, "flower-supernode": 1}


def test_what_was_known_before_is_left_as_it_was():
    known = count({}, (ended(0),), now=0)
    kept = dict(known)
    count(known, (ended(9),), now=9)
    assert known == kept


def test_docker_that_tells_no_times_still_gives_one_failure_and_no_second():
    silent = Existing(name=NAME, container_id="c0ffee", mine=True, status="exited")
    known = count({}, (silent,), now=0)
    assert known[NAME].failures == 1
    assert count(known, (silent,), now=1) == known


def test_a_clock_that_was_set_back_while_it_ran_is_no_long_life():
    known = count({}, (ended(0),), now=0)
    assert count(known, (ended(5, lived_s=-3600),), now=5)[NAME].failures == 2


def test_tests_may_shorten_every_wait_alike():
    assert crashes(7, scale=0.01) == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0])
    known = count({}, (ended(0),), now=0, scale=0.01)
    assert count(known, (ended(6, lived_s=6),), now=6, scale=0.01)[NAME].failures == 1


def test_two_causes_have_two_counts():
    known, now = {}, 0
    for code in (1, 137, 1, 137, 1):
        known = count(known, (ended(now, code=code),), now=now)
        now += 1
    assert (known[NAME].failures, known[NAME].cause) == (3, "1")
    assert known[NAME].others == (("137", 2),)
    assert known[NAME].total == 5
    assert known[NAME].not_before - (now - 1) == delay_s(3)


def test_what_docker_refuses_is_counted_apart_from_what_ends():
    known = count({}, (ended(0, code=1),), now=0)[NAME]
    for number in (1, 2):
        known = refused(known, now=10.0)
        assert (known.failures, known.total, known.not_before) == (
            number, number + 1, 10 + delay_s(number)
        )  # fmt: skip
    known = count({NAME: known}, (ended(20, code=1),), now=20)[NAME]
    assert (known.failures, known.others) == (2, (("refused", 2),))


def test_no_number_of_failures_is_too_many():
    assert delay_s(10**9) == LONGEST_DELAY_S


def test_a_loop_is_called_one_while_the_waits_are_still_short():
    assert delay_s(LOOP_AT) <= 20
