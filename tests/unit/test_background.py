"""Slow calls beside the loop: an answer is taken once, and only by who still asks for it."""

import gc
import threading

import pytest

from flower_agent.background import AT_ONCE, Background, Ended, Threads, after_failure, doubling
from flower_agent.model.errors import OneGateDownError, StillSearchingError

PATIENCE_S = 5.0
AWAY = OneGateDownError("onegate.down", "it does not answer", retryable=True)
WAITING = StillSearchingError("discover.waiting", "it is not there", retryable=True)


class Held(Threads):
    """Calls that end when the test says so."""

    def __init__(self):
        super().__init__(lambda: None)
        self.waiting = []

    def start(self, _, run):
        self.waiting.append(run)

    def release(self):
        self.waiting.pop(0)()


class Asked:
    """What a call answers, and how often it was made."""

    def __init__(self, *answers):
        self.answers, self.times = list(answers), 0

    def __call__(self):
        self.times += 1
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def held():
    return Held()


@pytest.fixture
def look(held):
    return Background(held, "look", after_failure(10.0), good_for_s=60.0)


def asked(held, look, request, *answers, now=0.0):
    """Ask until the call has ended; return how."""
    look.ask(request, Asked(*answers), now)
    held.release()
    return look.take(request, now)


def test_the_loop_goes_on_while_a_call_is_under_way(held, look):
    assert look.ask("a", Asked(7), 0.0) is None
    assert look.running
    assert held.busy()
    assert look.take("a", 0.0) is None


def test_an_answer_is_given_once_and_stays_known(held, look):
    look.ask("a", Asked(7), 0.0)
    held.release()
    assert look.take("a", 0.0) == Ended("a", answer=7)
    assert look.take("a", 0.0) is None
    assert look.answer == 7
    assert look.asked


def test_an_answer_to_another_request_is_dropped(held, look):
    look.ask("old", Asked("of the old"), 0.0)
    assert look.ask("new", Asked("of the new"), 0.0) is None
    held.release()
    assert look.take("new", 0.0) is None
    assert look.answer is None
    assert not look.asked


def test_an_error_of_another_request_is_dropped_and_its_pause_too(held, look):
    look.ask("old", Asked(AWAY), 0.0)
    look.take("new", 0.0)
    held.release()
    call = Asked("of the new")
    look.ask("new", call, 0.0)
    assert look.error is None
    held.release()
    assert look.take("new", 0.0).answer == "of the new"


def test_another_request_forgets_what_was_known(held, look):
    asked(held, look, "old", AWAY)
    look.take("new", 0.0)
    assert (look.answer, look.error, look.failures, look.due_at) == (None, None, 0, AT_ONCE)


def test_only_one_call_is_under_way(held, look):
    second = Asked(2)
    look.ask("a", Asked(1), 0.0)
    look.ask("b", second, 0.0)
    assert not look.start("b", second, 0.0)
    held.release()
    assert second.times == 0


def test_a_request_that_came_back_takes_the_answer_to_it(held, look):
    look.ask("a", Asked(1), 0.0)
    look.take("b", 0.0)
    held.release()
    assert look.take("a", 0.0) == Ended("a", answer=1)


def test_a_good_answer_counts_for_its_time(held, look):
    asked(held, look, "a", 1, now=100.0)
    again = Asked(2)
    look.ask("a", again, 159.0)
    assert not look.running
    look.ask("a", again, 160.0)
    assert look.running
    assert look.answer == 1


def test_a_failure_rests_and_leaves_the_answer_before_it(held, look):
    asked(held, look, "a", 1, now=0.0)
    asked(held, look, "a", AWAY, now=60.0)
    assert (look.answer, look.error, look.due_at) == (1, AWAY, 70.0)


def test_a_good_answer_ends_the_trouble(held, look):
    asked(held, look, "a", AWAY, now=0.0)
    asked(held, look, "a", 1, now=10.0)
    assert (look.answer, look.error, look.failures) == (1, None, 0)


def test_failures_of_one_area_count_together(held):
    look = Background(held, "look", doubling(2.0, 60.0))
    pauses, now = [], 0.0
    for error in (AWAY, AWAY, AWAY, WAITING, AWAY):
        asked(held, look, "a", error, now=now)
        pauses.append(look.due_at - now)
        now = look.due_at
    assert pauses == [2.0, 4.0, 8.0, 2.0, 2.0]


def test_a_doubling_pause_has_an_end(held):
    pause = doubling(2.0, 60.0)
    assert pause(AWAY, 100_000) == 60.0
    assert pause(None, 0) == 0.0


def test_again_asks_at_once_though_the_answer_is_good(held, look):
    asked(held, look, "a", 1)
    look.again()
    look.ask("a", Asked(2), 0.0)
    assert look.running
    assert look.answer == 1


def test_again_keeps_the_pause_after_a_failure(held, look):
    asked(held, look, "a", AWAY, now=0.0)
    look.again()
    assert look.due_at == 10.0


def test_again_at_a_time_is_never_later_than_before(held, look):
    asked(held, look, "a", 1, now=0.0)
    look.again(20.0)
    look.again(30.0)
    assert look.due_at == 20.0


def test_a_call_that_was_under_way_does_not_count_as_the_next(held, look):
    look.ask("a", Asked("before"), 0.0)
    look.again()
    held.release()
    assert look.take("a", 0.0).answer == "before"
    look.ask("a", Asked("after"), 0.0)
    held.release()
    assert look.take("a", 0.0).answer == "after"
    assert look.due_at == 60.0


def test_what_was_met_elsewhere_refutes_an_answer(held, look):
    asked(held, look, "a", 1, now=0.0)
    look.refuted(AWAY, 5.0)
    assert (look.answer, look.error, look.due_at) == (None, AWAY, 15.0)


def test_a_bug_in_a_call_is_told_and_can_be_tried_again(held, look):
    ended = asked(held, look, "a", ZeroDivisionError("oops"))
    assert str(ended.error) == "agent.bug: look: ZeroDivisionError('oops')"
    assert ended.error.retryable
    assert asked(held, look, "a", 1, now=10.0).answer == 1


def test_it_is_busy_until_the_end_was_looked_at(held, look):
    assert not held.busy()
    look.ask("a", Asked(1), 0.0)
    held.release()
    assert held.busy()
    look.take("a", 0.0)
    assert not held.busy()


def test_a_kind_of_call_that_is_gone_keeps_nobody_busy(held):
    look = Background(held, "look")
    look.ask("a", Asked(1), 0.0)
    held.release()
    del look
    gc.collect()
    assert not held.busy()


def test_a_call_runs_in_a_daemon_with_a_name_and_wakes_the_loop_after_its_end():
    woken, seen = threading.Event(), []
    threads = Threads(woken.set)
    look = Background(threads, "onegate-report")
    look.ask("a", lambda: seen.append(threading.current_thread()) or 7, 0.0)
    assert woken.wait(PATIENCE_S)
    assert look.take("a", 0.0).answer == 7
    assert [(thread.name, thread.daemon) for thread in seen] == [("onegate-report", True)]


def test_a_vm_without_room_for_a_thread_says_so_and_tries_again():
    woken = threading.Event()

    class Full(Threads):
        def start(self, *_):
            raise RuntimeError("can't start new thread")

    look = Background(Full(woken.set), "look", after_failure(10.0))
    look.ask("a", Asked(), 0.0)
    assert woken.is_set()
    assert str(look.take("a", 0.0).error) == "agent.bug: look: can't start new thread"
    assert look.due_at == 10.0
