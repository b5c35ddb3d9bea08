"""starting → ready ⇄ degraded, failed from any: one turn after the other."""

import datetime

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from flower_agent.model import lifecycle
from flower_agent.model.errors import Finding
from flower_agent.model.lifecycle import LifeState, Phase, Unmet

BORN = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
LIMIT_S = 600

WAITING = Unmet(Phase.DISCOVER, Finding("discover.waiting", "VM 28 has no endpoint"))
SOON = Unmet(Phase.HEALTH)
REFUSED = Unmet(Phase.TLS, Finding("tls.ca_changed", "another CA"), fatal=True)


class Vm:
    """A life and a clock; each `turn` is a second unless it says how long it took."""

    def __init__(self):
        self.now = 1000.0
        self.life = lifecycle.born(BORN, self.now)

    def turn(self, unmet=None, *, after_s=1.0):
        self.now += after_s
        self.life = lifecycle.step(
            self.life, unmet, now=self.wall, monotonic=self.now, ready_timeout_s=LIMIT_S
        )
        return self.life.state

    @property
    def wall(self):
        return BORN + datetime.timedelta(seconds=self.now - 1000)


@pytest.fixture
def vm():
    return Vm()


def test_a_new_agent_is_starting_and_waits_for_its_context(vm):
    assert (vm.life.state, vm.life.phase, vm.life.error) == (
        LifeState.STARTING,
        Phase.CONTEXT,
        None,
    )
    assert vm.life.since == vm.life.phase_since == BORN


def test_what_works_is_ready_without_phase_and_error(vm):
    assert vm.turn() is LifeState.READY
    assert (vm.life.phase, vm.life.error, vm.life.since) == (None, None, vm.wall)


def test_what_is_not_met_is_shown_with_its_phase_and_reason(vm):
    assert vm.turn(WAITING) is LifeState.STARTING
    assert (vm.life.phase, vm.life.error) == (Phase.DISCOVER, WAITING.finding)


def test_a_matter_of_moments_has_no_error(vm):
    assert vm.turn(SOON) is LifeState.STARTING
    assert vm.life.error is None


def test_what_was_ready_and_fails_is_degraded(vm):
    vm.turn()
    assert vm.turn(WAITING) is LifeState.DEGRADED
    assert vm.turn() is LifeState.READY


def test_degraded_never_turns_into_failed_by_waiting(vm):
    vm.turn()
    assert vm.turn(WAITING, after_s=10 * LIMIT_S) is LifeState.DEGRADED


def test_what_was_never_ready_is_never_degraded(vm):
    assert {vm.turn(SOON), vm.turn(REFUSED), vm.turn(WAITING)} == {
        LifeState.STARTING,
        LifeState.FAILED,
    }


@pytest.mark.parametrize("before", [[], [WAITING], [None], [None, WAITING]])
def test_a_refusal_fails_from_any_state(vm, before):
    for unmet in before:
        vm.turn(unmet)
    assert vm.turn(REFUSED) is LifeState.FAILED
    assert vm.life.error == REFUSED.finding


def test_failed_goes_on_trying_and_recovers(vm):
    vm.turn(REFUSED)
    assert vm.turn(SOON) is LifeState.STARTING
    assert vm.turn() is LifeState.READY


def test_failed_after_ready_comes_back_by_degraded(vm):
    vm.turn()
    vm.turn(REFUSED)
    assert vm.turn(SOON) is LifeState.DEGRADED


def test_the_time_limit_fails_a_start_and_says_what_it_waited_for(vm):
    assert vm.turn(WAITING, after_s=LIMIT_S) is LifeState.STARTING
    assert vm.turn(WAITING) is LifeState.FAILED
    assert str(vm.life.error) == (
        "ready.timeout: not ready after 600 s, still in phase discover: "
        "discover.waiting: VM 28 has no endpoint"
    )
    assert vm.life.error.hint == WAITING.finding.hint


def test_the_time_limit_has_a_reason_where_the_phase_gave_none(vm):
    vm.turn(SOON, after_s=LIMIT_S + 1)
    assert vm.life.error.message == "not ready after 600 s, still in phase health"
    assert vm.life.error.hint


def test_a_start_that_ran_out_of_time_recovers_and_stays(vm):
    vm.turn(SOON, after_s=LIMIT_S + 1)
    assert vm.turn() is LifeState.READY
    assert vm.turn(SOON) is LifeState.DEGRADED


def test_ages_begin_at_a_change_and_not_at_each_turn(vm):
    vm.turn(WAITING)
    since = vm.wall
    vm.turn(WAITING, after_s=30)
    assert (vm.life.since, vm.life.phase_since) == (BORN, since)
    vm.turn(SOON, after_s=30)
    assert (vm.life.since, vm.life.phase_since) == (BORN, vm.wall)
    vm.turn(after_s=30)
    assert vm.life.since == vm.life.phase_since == vm.wall


def test_new_settings_begin_a_start_with_the_whole_time_limit(vm):
    vm.turn(WAITING, after_s=LIMIT_S)
    vm.life = lifecycle.restarted(vm.life, vm.now)
    assert vm.turn(WAITING, after_s=LIMIT_S) is LifeState.STARTING
    assert vm.turn(WAITING) is LifeState.FAILED


def test_new_settings_that_never_work_fail_though_the_old_ones_did(vm):
    vm.turn()
    vm.life = lifecycle.restarted(vm.life, vm.now)
    assert vm.turn(WAITING) is LifeState.STARTING
    assert vm.turn(WAITING, after_s=LIMIT_S) is LifeState.FAILED


def test_new_settings_that_change_nothing_do_not_disturb_ready(vm):
    vm.turn()
    since = vm.life.since
    vm.life = lifecycle.restarted(vm.life, vm.now)
    assert vm.life.state is LifeState.READY
    assert (vm.turn(), vm.life.since) == (LifeState.READY, since)


def test_the_phases_stand_in_the_order_of_a_start():
    assert " ".join(Phase) == "context docker discover tls image data container health enrol peer"


found = st.sampled_from([None, WAITING, SOON, REFUSED, Unmet(Phase.PEER, WAITING.finding)])


@effort(max_examples=50)
@given(st.lists(st.tuples(found, st.floats(0, 400))))
def test_every_turn_tells_a_state_that_fits_what_was_found(turns):
    vm = Vm()
    for unmet, after_s in turns:
        before = vm.life
        state = vm.turn(unmet, after_s=after_s)
        assert (state is LifeState.READY) == (unmet is None)
        assert (vm.life.phase is None) == (state is LifeState.READY)
        assert state is not LifeState.DEGRADED or before.was_ready
        assert state is not LifeState.STARTING or not before.was_ready
        assert vm.life.phase_since >= before.phase_since


@effort(max_examples=50)
@given(st.lists(found, min_size=1))
def test_the_same_turn_twice_changes_nothing(turns):
    vm = Vm()
    for unmet in turns:
        vm.turn(unmet)
    before = vm.life
    vm.turn(turns[-1])
    assert vm.life == before
