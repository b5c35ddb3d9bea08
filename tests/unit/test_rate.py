"""How fast a SuperLink looks at VMs follows from OneGate's answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.enrolment import lookups
from flower_agent.enrolment.lookups import Rate
from flower_agent.enrolment.registrar import InterruptedLookError, ask
from flower_agent.model.errors import AgentError, OneGateDownError, OneGateFailedError

TAKEN = st.floats(0, 60)


def lasting(taken_s, seconds, pace):
    """Return the rates of so many seconds in which each answer takes as long."""
    found, passed = [], 0.0
    while passed < seconds:
        pace = pace.answered(taken_s)
        passed += max(taken_s, 1.0 / pace.a_second)
        found.append(pace.a_second)
    return found


def test_a_second_of_good_answers_adds_as_much_at_any_rate():
    for first in (5.0, 20.0, 100.0):
        after = lasting(0.0, 1.0, Rate(first))[-1]
        assert after - first == pytest.approx(lookups.GAIN, rel=0.35)


def test_a_onegate_that_answers_at_once_is_asked_for_a_thousand_vms_in_15_s():
    assert len(lasting(0.002, 15.0, Rate())) > 1000
    assert lasting(0.002, 15.0, Rate())[-1] == lookups.MOST == 200


def test_a_slow_answer_halves_the_rate_at_once():
    assert Rate(200.0).answered(0.0051).a_second == 100
    assert Rate(200.0).answered(0.0049).a_second == 200
    assert Rate(20.0).answered(0.06).a_second == 10


def test_a_failure_begins_again_at_the_least():
    assert Rate(200.0).failed().a_second == lookups.LEAST == 5


def test_a_onegate_that_takes_20_ms_is_asked_for_less_than_it_bears_and_for_more_than_20():
    rates = lasting(0.02, 60.0, Rate())[100:]
    assert max(rates) < 52
    assert sum(rates) / len(rates) > 30


@given(st.lists(st.one_of(TAKEN, st.none())))
def test_the_rate_stays_between_5_and_200(answers):
    pace = Rate()
    for taken_s in answers:
        pace = pace.failed() if taken_s is None else pace.answered(taken_s)
        assert 5 <= pace.a_second <= 200
        assert 5 <= pace.batch <= lookups.MOST_AT_ONCE


@given(TAKEN)
def test_a_look_up_and_its_pause_take_the_time_between_two(taken_s):
    pace = Rate(50.0)
    assert taken_s + pace.pause_s(taken_s) == pytest.approx(max(taken_s, 0.02))


class Gate:
    """Answers after so many seconds of its own clock, or fails."""

    def __init__(self, *takes):
        self.takes, self.now, self.begun = list(takes), 0.0, []
        self.clock = {"sleep": self.sleep, "clock": lambda: self.now}

    def vm(self, vmid):
        self.begun.append(self.now)
        takes = self.takes.pop(0)
        if isinstance(takes, AgentError):
            raise takes
        self.now += takes
        return {"VM": {"ID": vmid, "NAME": f"vm{vmid}", "USER_TEMPLATE": {}, "TEMPLATE": {}}}

    def sleep(self, seconds):
        self.now += seconds


def test_the_pace_changes_between_two_look_ups_of_one_batch():
    gate = Gate(0.001, 0.5, 0.001, 0.001)
    known = ask(gate, ["1", "2", "3", "4"], Rate(100.0), **gate.clock)
    first, second, third, fourth = gate.begun
    assert second - first < 0.011
    assert third - second == pytest.approx(0.5)
    assert fourth - third == pytest.approx(1 / known.rate.a_second, rel=0.02)
    assert known.rate.a_second == pytest.approx(50, rel=0.03)


def test_after_a_failure_the_next_batch_begins_at_the_least():
    gate = Gate(0.001, OneGateDownError("onegate.down", "no answer", retryable=True))
    with pytest.raises(InterruptedLookError) as raised:
        ask(gate, ["1", "2", "3"], Rate(200.0), **gate.clock)
    assert raised.value.known.rate == Rate(5.0)
    assert [claim.vmid for claim in raised.value.known.claims] == ["1"]


def test_a_vm_that_has_left_the_service_is_an_answer():
    left = OneGateFailedError(
        "onegate.refused", "Virtual machine 1 does not contain", retryable=True
    )
    gate = Gate(left)
    known = ask(gate, ["1"], Rate(100.0), **gate.clock)
    assert known.rate.a_second > 100
