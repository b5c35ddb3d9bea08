"""How often a VM asks OneGate again."""

import random

from flower_agent.service import pace

DOWN, WAITING = "onegate.down", "discover.waiting"


def rows(*codes):
    """Return the failures in a row after those answers."""
    failures = 0
    for code in codes:
        failures = pace.failures(failures, code)
    return failures


def test_what_is_not_there_yet_is_asked_for_every_5_to_15_s_however_long_it_takes():
    assert rows(*[WAITING] * 100) == 0
    assert (pace.pause_s(0, 0.0), pace.pause_s(0, 1.0)) == (5.0, 15.0)


def test_each_failure_of_onegate_in_a_row_doubles_the_pause_up_to_a_minute():
    longest = [pace.pause_s(rows(*[DOWN] * count), 1.0) for count in range(1, 6)]
    shortest = [pace.pause_s(rows(*[DOWN] * count), 0.0) for count in range(1, 6)]
    assert longest == [15.0, 30.0, 60.0, 60.0, 60.0]
    assert shortest == [5.0, 10.0, 20.0, 20.0, 20.0]
    assert pace.pause_s(10_000, 1.0) == 60.0


def test_an_answer_forgets_the_failures_before_it():
    assert rows(DOWN, DOWN, "", DOWN) == 1
    assert rows(DOWN, DOWN, WAITING) == 0


def test_vms_that_failed_together_do_not_ask_together():
    chance = random.Random(1)
    pauses = [pace.pause_s(1, chance.random()) for _ in range(1000)]
    busiest = max(sum(second <= p < second + 1 for p in pauses) for second in range(5, 15))
    assert busiest < 150
