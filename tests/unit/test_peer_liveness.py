"""A peer is called mute after two looks in a row, and never after one."""

import random
import threading
import time

from flower_agent.flower import peer_check
from flower_agent.flower.peer_check import Liveness, PeerEndpoint
from flower_agent.model import errors
from flower_agent.model.address import Address

LINK = PeerEndpoint(Address("192.0.2.1", 9092), tls=True, http=False)
OTHER = PeerEndpoint(Address("192.0.2.2", 9092), tls=True, http=False)
MUTE, LARGE = "peer.mute", "peer.mtu"
PATIENCE_S = 10


class Watch:
    """A loop that turns when the test says so; how a look ends is said by the test, too."""

    def __init__(self):
        self.now, self.says, self.asked, self.wakes = 100.0, None, [], 0
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()
        self.may_end.set()
        self.liveness = Liveness(self.wake, rng=random.Random(1), look=self.look)

    def wake(self):
        self.wakes += 1

    def look(self, peer, *, doubtful):
        says = self.says
        self.asked.append((peer, doubtful))
        self.begun.release()
        assert self.may_end.wait(PATIENCE_S)
        if says is not None:
            raise errors.kind(says)(says, f"{peer.address} says nothing", retryable=True)

    def judge(self, peer=LINK):
        found = self.liveness.judge(peer, self.now)
        return found.finding.code if found else None

    def ended(self):
        """Wait for the end of the look that was begun last."""
        assert self.begun.acquire(timeout=PATIENCE_S)
        end = time.monotonic() + PATIENCE_S
        while self.liveness._looks.running:
            assert time.monotonic() < end
            time.sleep(0.001)


def begun_and_ended(watch, begin_s, take_s):
    """Begin a look, end it `take_s` later; return what is proven then."""
    watch.now += begin_s
    watch.judge()
    watch.ended()
    watch.now += take_s
    return watch.judge()


def test_a_peer_that_answers_is_asked_each_ten_seconds_and_wakes_nobody():
    watch = Watch()
    for _ in range(4):
        assert begun_and_ended(watch, 10, 0) is None
    assert watch.asked == [(LINK, False)] * 4
    assert watch.wakes == 0


def test_one_failure_proves_nothing_and_wakes_the_loop():
    watch = Watch()
    watch.says = MUTE
    assert begun_and_ended(watch, 10, 5) is None
    assert watch.wakes == 1
    assert watch.liveness.wait_s(watch.now) == peer_check.NEXT_CHECK_S
    watch.says = None
    assert begun_and_ended(watch, 4, 1) is None
    assert begun_and_ended(watch, 10, 0) is None
    assert watch.asked[1:] == [(LINK, True), (LINK, False)]


def test_two_failures_in_a_row_are_proof_within_thirty_seconds():
    watch = Watch()
    begun_and_ended(watch, 10, 0)
    fell_silent_at = watch.now
    watch.says = MUTE
    assert begun_and_ended(watch, 10, 5) is None
    assert begun_and_ended(watch, 4, 8) == MUTE
    assert watch.now - fell_silent_at <= 27
    assert watch.wakes == 2


def test_two_failures_within_less_than_fifteen_seconds_are_no_proof():
    watch = Watch()
    watch.says = MUTE
    assert begun_and_ended(watch, 10, 0) is None
    assert begun_and_ended(watch, 4, 0) is None
    assert begun_and_ended(watch, 4, 8) == MUTE


def test_failures_that_are_not_in_a_row_are_no_proof():
    watch = Watch()
    for _ in range(3):
        watch.says = MUTE
        assert begun_and_ended(watch, 10, 5) is None
        watch.says = None
        assert begun_and_ended(watch, 4, 8) is None


def test_the_cause_is_that_of_the_last_look_and_one_answer_ends_it():
    watch = Watch()
    watch.says = MUTE
    begun_and_ended(watch, 10, 5)
    watch.says = LARGE
    assert begun_and_ended(watch, 4, 8) == LARGE
    watch.says = None
    wakes = watch.wakes
    assert begun_and_ended(watch, 4, 0) is None
    assert watch.wakes == wakes + 1, "good news after bad is told at once"


def test_an_answer_about_the_peer_before_says_nothing_about_this_one():
    watch = Watch()
    watch.says = MUTE
    begun_and_ended(watch, 10, 5)
    watch.may_end.clear()
    watch.now += 4
    watch.judge()
    assert watch.begun.acquire(timeout=PATIENCE_S)
    watch.begun.release()
    watch.says = None
    watch.now += 8
    assert watch.judge(OTHER) is None, "another peer, while the one before is asked"
    watch.may_end.set()
    watch.ended()
    assert watch.judge(OTHER) is None
    watch.ended()
    assert watch.judge(OTHER) is None
    assert watch.asked[-1] == (OTHER, False)


def test_what_is_no_word_about_the_peer_counts_as_none():
    watch = Watch()
    watch.says = "agent.bug"
    assert begun_and_ended(watch, 10, 5) is None
    assert begun_and_ended(watch, 10, 10) is None


def test_an_answer_that_waited_for_the_next_turn_delays_no_look():
    """All being well nobody is woken: an idle loop turns each ten seconds, and finds the answer."""
    watch = Watch()
    for turns in range(1, 5):
        watch.judge()
        watch.ended()
        assert len(watch.asked) == turns
        watch.now += 10
    fell_silent_at, watch.says = watch.now - 10, MUTE
    watch.judge()
    watch.ended()
    watch.now += 5
    assert watch.judge() is None
    assert begun_and_ended(watch, 4, 8) == MUTE
    assert watch.now - fell_silent_at <= 27


def test_turns_that_come_sooner_ask_no_more_often():
    watch = Watch()
    watch.judge()
    watch.ended()
    for _ in range(7):
        watch.now += 1
        watch.judge()
    assert len(watch.asked) == 1
    assert 1 <= watch.liveness.wait_s(watch.now) <= 3
