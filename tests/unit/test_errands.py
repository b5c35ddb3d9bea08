"""Slow calls beside the loop: one of a name at a time, each end taken once."""

import threading

import pytest

from flower_agent.errands import Done, Errands
from flower_agent.errors import AgentError

PATIENCE_S = 5.0


class Loop:
    """What the agent's loop is to its errands: it sleeps until one of them wakes it."""

    def __init__(self):
        self.woken = threading.Semaphore(0)
        self.errands = Errands(self.woken.release)

    def wait(self):
        assert self.woken.acquire(timeout=PATIENCE_S)


class Call:
    """A slow call that ends when the test says so."""

    def __init__(self, value=None, error=None):
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.times = 0
        self._value, self._error = value, error

    def __call__(self):
        self.times += 1
        self.begun.set()
        assert self.may_end.wait(PATIENCE_S)
        if self._error is not None:
            raise self._error
        return self._value


@pytest.fixture
def loop():
    return Loop()


def test_an_errand_wakes_the_loop_and_gives_its_value_once(loop):
    assert loop.errands.start("look", lambda: 7)
    loop.wait()
    assert loop.errands.take("look") == Done(value=7)
    assert loop.errands.take("look") is None


def test_the_loop_goes_on_meanwhile(loop):
    call = Call()
    loop.errands.start("look", call)
    assert call.begun.wait(PATIENCE_S)
    assert loop.errands.running("look")
    assert loop.errands.busy()
    assert loop.errands.take("look") is None
    call.may_end.set()
    loop.wait()
    assert not loop.errands.running("look")


def test_a_second_errand_of_the_name_is_not_begun(loop):
    call, second = Call("first"), Call("second")
    loop.errands.start("look", call)
    assert not loop.errands.start("look", second)
    call.may_end.set()
    loop.wait()
    assert loop.errands.take("look").value == "first"
    assert second.times == 0


def test_errands_of_different_names_run_side_by_side(loop):
    one, two = Call(1), Call(2)
    assert loop.errands.start("one", one)
    assert loop.errands.start("two", two)
    assert one.begun.wait(PATIENCE_S)
    assert two.begun.wait(PATIENCE_S)
    two.may_end.set()
    loop.wait()
    assert loop.errands.take("two").value == 2
    assert loop.errands.running("one")
    one.may_end.set()
    loop.wait()


def test_it_is_busy_until_the_end_is_taken(loop):
    assert not loop.errands.busy()
    loop.errands.start("look", lambda: None)
    loop.wait()
    assert loop.errands.busy()
    loop.errands.take("look")
    assert not loop.errands.busy()


def test_a_failure_comes_back_as_it_is(loop):
    error = AgentError("onegate.down", "it does not answer", retryable=True)
    call = Call(error=error)
    call.may_end.set()
    loop.errands.start("look", call)
    loop.wait()
    assert loop.errands.take("look") == Done(error=error)


def test_a_bug_in_an_errand_is_told_and_can_be_tried_again(loop):
    call = Call(error=ZeroDivisionError("oops"))
    call.may_end.set()
    loop.errands.start("look", call)
    loop.wait()
    error = loop.errands.take("look").error
    assert str(error) == "agent.bug: look: ZeroDivisionError('oops')"
    assert error.retryable
    assert loop.errands.start("look", lambda: None)
    loop.wait()


def test_an_errand_is_a_daemon_with_a_name(loop):
    seen = []
    loop.errands.start("onegate-report", lambda: seen.append(threading.current_thread()))
    loop.wait()
    assert [(thread.name, thread.daemon) for thread in seen] == [("onegate-report", True)]


def test_the_end_is_there_before_the_loop_is_woken():
    found = []
    ended = threading.Event()

    def wake():
        found.append(errands.take("look"))
        ended.set()

    errands = Errands(wake)
    errands.start("look", lambda: 7)
    assert ended.wait(PATIENCE_S)
    assert found == [Done(value=7)]
