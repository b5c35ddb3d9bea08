"""Containers and images brought about on an Engine in memory: faults, races, cut-off turns."""

import datetime
import itertools
import re
import threading

import pytest
from fake_engine import FakeEngine
from real_engine import until

from flower_agent.background import Threads
from flower_agent.docker.containers import (
    CPU_SHARES,
    CPU_SHARES_STARTING,
    Component,
    Container,
    Mount,
)
from flower_agent.docker.image_references import Registry
from flower_agent.model.errors import (
    AgentError,
    ContainerExitedError,
    ImageDeniedError,
    ImagePullError,
)
from flower_agent.model.secret import Secret
from flower_agent.reconcile.reconciler import RETRY_PULL_S, Reconciler
from flower_agent.reconcile.restart_policy import LOOP_AT, delay_s

SUPERLINK, SUPEREXEC = "flower-superlink", "flower-superexec"
LINK_IMAGE, EXEC_IMAGE = "flwr/superlink:1.25.0-py3.13-ubuntu24.04", "flwr/superexec:1.25.0"
IMAGES = (LINK_IMAGE, EXEC_IMAGE)
START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
CREDENTIALS = Registry("agent", Secret("open sesame"))


class Clock:
    """Time that moves when it is told to."""

    def __init__(self):
        self.monotonic = 1000.0

    def now(self):
        return START + datetime.timedelta(seconds=self.monotonic)

    def sleep(self, seconds):
        self.monotonic += seconds


class Machine:
    """A Docker Engine and a clock, and one agent's workload after the other on them."""

    def __init__(self, scale=1.0):
        self.clock = Clock()
        self.engine = FakeEngine(now=self.clock.now)
        self.scale = scale
        self.begin()

    def begin(self):
        """Let a new agent process begin; it knows nothing of the one before."""
        self.woken = threading.Event()
        self.threads = Threads(self.woken.set)
        self.reconciler = Reconciler(
            self.engine, self.threads, wake=self.woken.set, scale=self.scale
        )

    @property
    def now(self):
        return self.clock.monotonic

    def steps(self, want, *, settled=False):
        self.reconciler.observe(self.now)
        return self.reconciler.steps(want, settled=settled, now=self.now)

    def turn(self, want, pins=None, **wishes):
        """Do one turn; return what it did."""
        steps = self.steps(want, **wishes)
        self.reconciler.apply(steps, pins or {}, self.now)
        self.reconciler.observe(self.now)
        return tuple(str(step) for step in steps)

    def settle(self, want):
        """Turn until nothing is to do; back-offs are waited for, a failed turn is made again."""
        for _ in range(20):
            try:
                done = self.turn(want, settled=True)
            except AgentError as error:
                if not error.retryable:
                    raise
                done = ("failed",)
            if not done and all(c.running for c in self.reconciler.have):
                return
            self.clock.sleep(1)
        raise AssertionError(f"no end: {done}, {self.engine.containers()}")

    def fetch(self, images=IMAGES, pins=None, registry=None):
        """Do the images' part of a turn; return what is missing and the last error."""
        missing = self.reconciler.missing_images(images, pins or {})
        error = self.reconciler.fetch(missing, pins or {}, registry, self.now) if missing else None
        return missing, error

    def fetch_all(self, **wishes):
        """Fetch until nothing is missing."""
        assert until(lambda: not self.fetch(**wishes)[0])

    def finish_pull(self):
        """Wait until the pull that runs is over."""
        assert self.woken.wait(5)
        self.woken.clear()

    def failed_fetch(self, **wishes):
        """Begin a pull, let it fail, and return its error."""
        self.fetch(**wishes)
        self.finish_pull()
        return self.fetch(**wishes)[1]

    def pulls(self):
        return [call for call in self.engine.calls if call.startswith("pull ")]

    def portrait(self):
        """Return what remains in the end, without names and times that chance gives."""
        return {
            c.name: (c.mine, c.fingerprint, c.image, c.status, c.cpu_shares)
            for c in self.engine.containers()
        }


@pytest.fixture
def machine():
    machine = Machine()
    for image in IMAGES:
        machine.engine.hold(image)
    return machine


@pytest.fixture
def bare():
    """A machine without images; a registry has them."""
    machine = Machine()
    for image in IMAGES:
        machine.engine.offer(image)
    return machine


def wanted(**changes):
    """Return a SuperLink and its SuperExec; `changes` reach the SuperLink."""
    link = {
        "name": SUPERLINK,
        "part": Component.SUPERLINK,
        "image": LINK_IMAGE,
        "command": ("--isolation", "process"),
    }
    return (
        Container(**{**link, **changes}),
        Container(
            name=SUPEREXEC,
            part=Component.SUPEREXEC,
            image=EXEC_IMAGE,
            command=("--plugin-type", "serverapp"),
            yields_cpu=True,
        ),
    )


# Images.


def test_missing_images_are_pulled_beside_the_loop(bare):
    bare.engine.pulling.clear()
    assert bare.fetch() == (IMAGES, None)
    assert bare.fetch() == (IMAGES, None)
    bare.engine.pulling.set()
    bare.fetch_all()
    assert set(bare.engine.local) == set(IMAGES)


def test_images_are_pulled_one_at_a_time(bare):
    bare.engine.pulling.clear()
    bare.fetch()
    bare.fetch()
    assert until(bare.pulls)
    assert bare.pulls() == [f"pull {LINK_IMAGE}"]
    bare.engine.pulling.set()
    bare.fetch_all()
    assert bare.pulls() == [f"pull {LINK_IMAGE}", f"pull {EXEC_IMAGE}"]


def test_the_end_of_a_pull_wakes_the_loop(bare):
    bare.fetch()
    assert bare.woken.wait(1)


def test_what_a_pull_says_is_shown(bare):
    bare.fetch_all()
    assert bare.reconciler.progress == "Pulling fs layer"


def test_the_credentials_reach_the_registry(bare):
    bare.fetch_all(registry=CREDENTIALS)
    assert bare.engine.credentials == [CREDENTIALS, CREDENTIALS]


def test_an_image_that_is_here_needs_no_registry(machine):
    assert machine.fetch() == ((), None)
    assert machine.pulls() == []


@pytest.mark.parametrize(
    ("retryable", "tries", "wait_s", "scale"),
    [
        (True, 3, RETRY_PULL_S[0], 0.001),
        (False, 1, RETRY_PULL_S[1], 0.001),
        (False, 1, RETRY_PULL_S[1], 1.0),
    ],
)
def test_a_failed_pull_is_told_and_tried_again_after_a_wait(retryable, tries, wait_s, scale):
    machine = Machine(scale)
    failure = ImagePullError("image.pull", "connection refused", retryable=retryable)
    machine.engine.spoil(LINK_IMAGE, failure)
    only = {"images": (LINK_IMAGE,)}
    assert machine.failed_fetch(**only) is failure
    machine.clock.sleep(wait_s * scale * 0.9)
    assert machine.fetch(**only)[1] is failure
    assert len(machine.pulls()) == tries
    machine.engine.offer(LINK_IMAGE)
    machine.clock.sleep(wait_s * scale * 0.2)
    machine.fetch_all(**only)
    assert len(machine.pulls()) == tries + 1


def test_an_error_is_told_until_a_pull_succeeds(bare):
    failure = ImagePullError("image.pull", "connection refused", retryable=False)
    bare.engine.spoil(LINK_IMAGE, failure)
    bare.failed_fetch()
    bare.clock.sleep(RETRY_PULL_S[1])
    bare.engine.pulling.clear()
    assert bare.fetch()[1] is failure
    bare.engine.pulling.set()


def test_one_image_that_fails_does_not_hold_up_the_other(bare):
    bare.engine.spoil(LINK_IMAGE, ImageDeniedError("image.denied", "no"))
    bare.failed_fetch()
    assert until(lambda: bare.fetch()[0] == (LINK_IMAGE,))


def test_new_credentials_are_tried_at_once(bare):
    bare.engine.spoil(LINK_IMAGE, ImageDeniedError("image.denied", "unauthorized"))
    assert bare.failed_fetch(images=(LINK_IMAGE,))
    bare.engine.offer(LINK_IMAGE)
    bare.fetch_all(images=(LINK_IMAGE,), registry=CREDENTIALS)
    assert bare.engine.credentials == [None, CREDENTIALS]


def test_a_pull_that_is_over_leaves_nothing_behind(bare):
    bare.fetch_all()
    assert until(lambda: not bare.threads.busy())


def test_another_digest_than_the_pinned_one_counts_as_missing(bare):
    old = bare.engine.offer(LINK_IMAGE)
    bare.engine.offer(LINK_IMAGE)
    bare.fetch_all(images=(LINK_IMAGE,))
    bare.begin()
    pins = {LINK_IMAGE: old}
    assert bare.fetch(images=(LINK_IMAGE,), pins=pins)[0] == (LINK_IMAGE,)
    bare.fetch_all(images=(LINK_IMAGE,), pins=pins)
    assert bare.pulls()[-1] == f"pull {LINK_IMAGE} by {old}"
    assert bare.reconciler.digest(LINK_IMAGE) == old


def test_a_pull_that_brings_another_image_is_not_made_again_at_once(bare):
    pin = bare.engine.offer(LINK_IMAGE)
    bare.engine.mislabel(LINK_IMAGE, pin)
    wishes = {"images": (LINK_IMAGE,), "pins": {LINK_IMAGE: pin}}
    assert bare.failed_fetch(**wishes) is None
    bare.fetch(**wishes)
    assert len(bare.pulls()) == 1
    bare.clock.sleep(RETRY_PULL_S[0])
    bare.fetch(**wishes)
    assert until(lambda: len(bare.pulls()) == 2)


def test_the_digest_of_a_pulled_image_is_known(bare):
    digest = bare.engine.offer(LINK_IMAGE)
    assert bare.reconciler.digest(LINK_IMAGE) == ""
    bare.fetch_all(images=(LINK_IMAGE,))
    assert bare.reconciler.digest(LINK_IMAGE) == digest


def test_an_image_that_was_made_here_has_no_digest(machine):
    machine.fetch()
    assert machine.reconciler.digest(LINK_IMAGE) == ""


def test_a_container_is_made_from_the_digest_and_not_from_the_tag(bare):
    digest = bare.engine.offer(LINK_IMAGE)
    bare.fetch_all()
    bare.turn(wanted())
    repository = LINK_IMAGE.partition(":")[0]
    assert bare.reconciler.existing(SUPERLINK).image == f"{repository}@{digest}"


def test_a_tag_that_was_moved_by_hand_is_not_used_by_stealth(bare):
    old = bare.engine.offer(LINK_IMAGE)
    bare.engine.offer(LINK_IMAGE)
    bare.fetch_all()
    with pytest.raises(AgentError, match=r"image\.pull"):
        bare.turn(wanted(), pins={LINK_IMAGE: old})
    assert bare.portrait() == {}
    assert bare.fetch(pins={LINK_IMAGE: old})[0] == (LINK_IMAGE,)


def test_an_image_that_vanished_is_pulled_again(bare):
    bare.fetch_all()
    bare.engine.forget_image(LINK_IMAGE)
    with pytest.raises(AgentError):
        bare.turn(wanted())
    assert bare.fetch()[0] == (LINK_IMAGE,)
    bare.fetch_all()
    bare.settle(wanted())


# Containers.


def test_wanted_containers_are_made_and_started_in_order(machine):
    assert machine.turn(wanted()) == (
        f"create {SUPERLINK} (absent)",
        f"start {SUPERLINK} (absent)",
        f"create {SUPEREXEC} (absent)",
        f"start {SUPEREXEC} (absent)",
    )
    assert [c.name for c in machine.reconciler.have if c.running] == [SUPERLINK, SUPEREXEC]


def test_twice_the_same_does_nothing(machine):
    machine.turn(wanted())
    assert machine.turn(wanted()) == ()


def test_a_new_agent_keeps_what_runs(machine):
    machine.turn(wanted())
    before = machine.engine.containers()
    machine.begin()
    assert machine.turn(wanted()) == ()
    assert machine.engine.containers() == before


def test_the_superexec_gets_its_share_when_the_first_container_answers(machine):
    machine.turn(wanted())
    assert machine.reconciler.existing(SUPEREXEC).cpu_shares == CPU_SHARES_STARTING
    assert machine.turn(wanted(), settled=True) == (f"update {SUPEREXEC} (full CPU share)",)
    assert machine.reconciler.existing(SUPEREXEC).cpu_shares == CPU_SHARES
    assert machine.turn(wanted(), settled=True) == ()


def test_a_change_replaces_only_what_it_reaches(machine):
    machine.turn(wanted())
    before = machine.reconciler.existing(SUPEREXEC)
    cause = "settings changed"
    assert machine.turn(wanted(command=("--insecure",))) == (
        f"stop {SUPERLINK} ({cause})",
        f"remove {SUPERLINK} ({cause})",
        f"create {SUPERLINK} ({cause})",
        f"start {SUPERLINK} ({cause})",
    )
    assert machine.reconciler.existing(SUPEREXEC) == before


@pytest.mark.parametrize("scale", [1.0, 0.001])
def test_a_killed_container_is_started_at_once_and_then_rests_ever_longer(scale):
    machine = Machine(scale)
    for image in IMAGES:
        machine.engine.hold(image)
    machine.turn(wanted())
    waits = []
    for _ in range(8):
        machine.clock.sleep(scale)
        machine.engine.end(SUPERLINK, 1)
        machine.reconciler._changed()
        begin = machine.now
        while not machine.turn(wanted()):
            machine.clock.sleep(min(machine.reconciler.rest_s(machine.now), 3600) or scale)
        waits.append(round((machine.now - begin) / scale))
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_resting_container_leaves_the_other_alone(machine):
    machine.turn(wanted())
    for _ in range(3):
        machine.clock.sleep(20)
        machine.engine.end(SUPERLINK, 1)
        machine.turn(wanted())
    machine.engine.end(SUPEREXEC)
    assert machine.turn(wanted()) == (f"start {SUPEREXEC} (exited 137)",)


def test_new_settings_end_the_rest(machine):
    machine.turn(wanted())
    for _ in range(4):
        machine.clock.sleep(100)
        machine.engine.end(SUPERLINK, 1)
        machine.turn(wanted())
    assert machine.turn(wanted()) == ()
    machine.turn(wanted(command=("--insecure",)))
    assert machine.reconciler.existing(SUPERLINK).running
    assert machine.reconciler.restarts(SUPERLINK) == 0


def test_a_start_that_docker_refuses_again_and_again_rests_too(machine):
    machine.engine.refuse_start = "exec format error"
    tries = []
    for _ in range(60):
        try:
            machine.turn(wanted()[:1])
        except AgentError as error:
            tries.append((error.finding.code, round(machine.now - 1000)))
        machine.clock.sleep(1)
    assert tries == [("container.refused", at) for at in (0, 1, 11, 31)]
    assert machine.reconciler.ended(SUPERLINK).finding.code == "container.refused"
    assert "exec format error" in machine.reconciler.ended(SUPERLINK).finding.message


def test_an_end_is_told_with_its_exit_code_and_last_words(machine):
    machine.turn(wanted())
    machine.engine.say(SUPERLINK, "Port 9092 is taken")
    machine.engine.end(SUPERLINK, 7)
    machine.clock.sleep(10)
    machine.reconciler.observe(machine.now)
    error = machine.reconciler.ended(SUPERLINK)
    assert (error.finding.code, error.retryable) == ("container.exited", True)
    assert f"{SUPERLINK} ended with status 7" in error.finding.message


def test_many_ends_are_a_crash_loop_with_their_number(machine):
    machine.turn(wanted())
    for _ in range(LOOP_AT):
        machine.clock.sleep(100)
        machine.turn(wanted())
        machine.engine.end(SUPERLINK, 1)
    machine.clock.sleep(100)
    machine.reconciler.observe(machine.now)
    finding = machine.reconciler.ended(SUPERLINK).finding
    assert finding.code == "container.crash_loop"
    assert f"{LOOP_AT} times in a row" in finding.message


def test_a_crash_loop_says_when_the_next_try_is_and_the_same_all_the_while(machine):
    machine.turn(wanted())
    for _ in range(LOOP_AT):
        machine.clock.sleep(100)
        machine.turn(wanted())
        machine.engine.end(SUPERLINK, 1)
    machine.clock.sleep(100)
    machine.reconciler.observe(machine.now)
    before = datetime.datetime.now(datetime.UTC)
    error = machine.reconciler.ended(SUPERLINK)
    assert type(error) is ContainerExitedError
    message = error.finding.message
    told = re.search(r"; next try at (\d\d:\d\d:\d\d) UTC$", message)[1]
    due = before + datetime.timedelta(seconds=delay_s(LOOP_AT))
    assert told in (f"{due:%H:%M:%S}", f"{due + datetime.timedelta(seconds=1):%H:%M:%S}")
    machine.clock.sleep(3)
    machine.reconciler.observe(machine.now)
    assert machine.reconciler.ended(SUPERLINK).finding.message == message


def test_an_absent_container_is_told(machine):
    machine.reconciler.observe(machine.now)
    assert machine.reconciler.ended(SUPERLINK).finding.message == f"{SUPERLINK} does not exist"


def test_an_end_is_told_though_docker_gives_no_logs(machine):
    machine.turn(wanted())
    machine.engine.end(SUPERLINK, 7)
    machine.clock.sleep(10)
    machine.reconciler.observe(machine.now)
    machine.engine.down = True
    assert machine.reconciler.ended(SUPERLINK).finding.code == "container.exited"


def test_somebody_elses_container_of_our_name_is_not_touched(machine):
    machine.engine.foreign(SUPERLINK)
    with pytest.raises(AgentError) as caught:
        machine.turn(wanted())
    assert caught.value.finding.code == "container.foreign"
    assert SUPERLINK in caught.value.finding.message
    assert machine.engine.calls == []


def test_somebody_elses_container_of_another_name_is_left_alone(machine):
    machine.engine.foreign("database")
    machine.turn(wanted())
    machine.turn(())
    assert set(machine.portrait()) == {"database"}


# Faults between agent and Docker.


@pytest.mark.parametrize("call", ["create", "start", "stop", "remove", "give_cpu"])
def test_a_reply_that_was_lost_is_made_up_for(machine, call):
    other = furnished(wanted())
    other.settle(wanted(command=("--insecure",)))
    machine.turn(wanted())
    machine.engine.lose_reply = call
    machine.settle(wanted(command=("--insecure",)))
    assert machine.engine.lose_reply == ""
    assert machine.portrait() == other.portrait()


def test_docker_that_is_away_is_told_and_then_all_goes_on(machine):
    machine.turn(wanted())
    machine.engine.down = True
    machine.clock.sleep(10)
    with pytest.raises(AgentError, match=r"docker\.down"):
        machine.turn(wanted())
    machine.engine.down = False
    machine.engine.end(SUPERLINK, 255)
    assert machine.turn(wanted()) == (f"start {SUPERLINK} (exited 255)",)


def scenarios():
    """Yield name, what was, and what is wanted then."""
    changed = wanted(command=("--insecure",))
    yield "from nothing", (), wanted()
    yield "one change", wanted(), changed
    yield "another image", wanted(), wanted(image="flwr/superlink:1.26.0")
    yield "away with it", wanted(), ()
    yield "another role", wanted(), wanted(name="flower-supernode", part=Component.SUPERNODE)
    yield "the second goes", wanted(), wanted()[:1]


CUTS = [
    pytest.param(before, after, cut, id=f"{name}, {cut}")
    for name, before, after in scenarios()
    for cut in range(9)
]


def furnished(before):
    machine = Machine()
    for image in (*IMAGES, "flwr/superlink:1.26.0"):
        machine.engine.hold(image)
    machine.settle(before)
    machine.begin()
    return machine


@pytest.mark.parametrize(("before", "after", "cut"), CUTS)
def test_an_agent_that_is_killed_between_two_steps_is_made_up_for_by_the_next(before, after, cut):
    whole = furnished(before)
    whole.settle(after)
    broken = furnished(before)
    steps = broken.steps(after)
    broken.reconciler.apply(steps[:cut], {}, broken.now)
    broken.begin()
    broken.settle(after)
    assert broken.portrait() == whole.portrait()


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(range(5), 2)])
def test_two_cut_off_agents_in_a_row_are_made_up_for(first, second):
    changed = wanted(command=("--insecure",))
    whole = furnished(wanted())
    whole.settle(changed)
    broken = furnished(wanted())
    for cut in (first, second):
        broken.reconciler.apply(broken.steps(changed)[:cut], {}, broken.now)
        broken.begin()
    broken.settle(changed)
    assert broken.portrait() == whole.portrait()


# Docker that takes long.


@pytest.fixture
def slow():
    """Return a machine that runs, on which a stop takes until the door opens."""
    machine = furnished(wanted())
    machine.settle(wanted())
    machine.engine.slow = "stop"
    machine.engine.calls.clear()
    return machine


CHANGED = wanted(command=("--insecure",))


def under_way(machine, want=CHANGED):
    """Turn; return whether the steps are still under way."""
    steps = machine.steps(want)
    return not machine.reconciler.apply(steps, {}, machine.now)


def test_a_container_that_does_not_stop_holds_up_no_turn(slow):
    for _ in range(5):
        assert under_way(slow)
        slow.clock.sleep(10)
    assert slow.reconciler.doing == f"stop {SUPERLINK} (settings changed)"
    assert slow.engine.calls == [f"stop {SUPERLINK}"]
    slow.engine.door.set()
    assert until(lambda: not slow.reconciler.doing)
    assert slow.woken.is_set()
    slow.settle(CHANGED)
    verbs = ("stop", "remove", "create", "start")
    assert slow.engine.calls == [f"{verb} {SUPERLINK}" for verb in verbs]


def test_a_start_that_took_long_is_told_to_the_turn_after_it(slow):
    slow.engine.slow = "start"
    assert under_way(slow)
    slow.engine.door.set()
    assert until(lambda: not slow.reconciler.doing)
    slow.reconciler.observe(slow.now)
    assert slow.reconciler.started == {SUPERLINK}
    slow.reconciler.observe(slow.now)
    assert slow.reconciler.started == set()


def test_a_refusal_that_took_long_is_told_by_the_next_turn(slow):
    slow.engine.slow, slow.engine.refuse_start = "start", "out of space"
    assert under_way(slow)
    slow.engine.door.set()
    assert until(lambda: not slow.reconciler.doing)
    steps = slow.steps(CHANGED)
    assert slow.reconciler.failures(SUPERLINK) == 1
    with pytest.raises(AgentError, match="out of space"):
        slow.reconciler.apply(steps, {}, slow.now)
    assert slow.engine.calls.count(f"start {SUPERLINK}") == 1


def test_what_was_asked_of_docker_before_a_change_does_not_fail_what_is_wanted_now(slow):
    slow.engine.lose_reply = "stop"
    assert under_way(slow)
    slow.engine.door.set()
    assert until(lambda: not slow.reconciler.doing)
    back = slow.steps(wanted())
    assert [str(step) for step in back] == [f"start {SUPERLINK} (exited 143)"]
    assert slow.reconciler.apply(back, {}, slow.now)


def test_an_image_that_is_gone_is_known_before_the_old_container_is_stopped(slow):
    changed = wanted(image="flwr/superlink:9.9.9")
    steps = slow.steps(changed)
    with pytest.raises(AgentError, match=r"image\.pull"):
        slow.reconciler.apply(steps, {}, slow.now)
    assert slow.engine.calls == []


# When to look.


@pytest.fixture
def watched(machine):
    stop = threading.Event()
    machine.turn(wanted())
    machine.reconciler.watch(stop)
    assert machine.woken.wait(1)
    machine.reconciler.observe(machine.now)
    machine.woken.clear()
    yield machine
    stop.set()
    machine.engine.down = True


def test_an_event_wakes_the_loop_and_is_seen_at_once(watched):
    watched.engine.end(SUPERLINK, 1)
    assert watched.woken.wait(1)
    assert watched.turn(wanted()) == (f"start {SUPERLINK} (exited 1)",)


def test_without_an_event_docker_is_not_asked_at_each_turn(watched):
    before = watched.engine.listings
    for _ in range(10):
        watched.turn(wanted())
    assert watched.engine.listings == before


def test_docker_is_asked_now_and_then_though_no_event_comes(watched):
    before = watched.engine.listings
    watched.clock.sleep(5)
    watched.turn(wanted())
    assert watched.engine.listings == before + 1


def test_a_watch_that_broke_off_wakes_the_loop_and_stands_again(machine):
    machine.scale = 0.001
    machine.begin()
    stop = threading.Event()
    machine.reconciler.watch(stop)
    assert machine.woken.wait(1)
    machine.woken.clear()
    machine.engine.down = True
    assert machine.woken.wait(1)
    machine.engine.down = False
    machine.settle(wanted())
    machine.woken.clear()
    machine.engine.end(SUPERLINK)
    assert machine.woken.wait(1)
    stop.set()
    machine.engine.down = True


def test_a_refused_container_is_tried_at_once_with_other_settings(machine):
    bad = wanted(mounts=(Mount("/nowhere", "/app/data"),))
    for _ in range(2):
        with pytest.raises(AgentError, match="does not exist"):
            machine.turn(bad)
    machine.reconciler.reset_backoff()
    assert f"create {SUPERLINK} (absent)" in machine.turn(wanted())
