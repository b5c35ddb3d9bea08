"""How often a VM asks OneGate again."""

import random

import pytest

from flower_agent.model.errors import OneGateDownError, StillSearchingError
from flower_agent.onegate import superlink_search

DOWN = OneGateDownError("onegate.down", "it does not answer", retryable=True)
WAITING = StillSearchingError("discover.waiting", "it is not there yet", retryable=True)


class Chance(random.Random):
    """Always the same chance."""

    def __init__(self, chance):
        super().__init__()
        self._chance = chance

    def random(self):
        return self._chance


@pytest.mark.parametrize("error", [WAITING, None])
def test_what_is_not_there_yet_is_asked_for_every_5_to_15_s_however_long_it_takes(error):
    assert [superlink_search.policy(Chance(c), 1.0)(error, 100) for c in (0.0, 1.0)] == [5.0, 15.0]


def test_each_failure_of_onegate_in_a_row_doubles_the_pause_up_to_a_minute():
    longest = [superlink_search.policy(Chance(1.0), 1.0)(DOWN, count) for count in range(1, 6)]
    shortest = [superlink_search.policy(Chance(0.0), 1.0)(DOWN, count) for count in range(1, 6)]
    assert longest == [15.0, 30.0, 60.0, 60.0, 60.0]
    assert shortest == [5.0, 10.0, 20.0, 20.0, 20.0]
    assert superlink_search.policy(Chance(1.0), 1.0)(DOWN, 10_000) == 60.0


def test_vms_that_failed_together_do_not_ask_together():
    pause = superlink_search.policy(random.Random(1), 1.0)
    pauses = [pause(DOWN, 1) for _ in range(1000)]
    busiest = max(sum(second <= p < second + 1 for p in pauses) for second in range(5, 15))
    assert busiest < 150
