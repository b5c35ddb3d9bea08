"""The reports of one VM to the sandbox's OneGate, on a clock that the tests move."""

import datetime
import itertools
import json
import random
import stat
import threading
import time

import endpoints
import onegate as sandbox
import pytest
import structlog
from inline import running

from flower_agent.background import Threads
from flower_agent.config.sources import OneGateAccess
from flower_agent.model.errors import AgentError, Severity
from flower_agent.model.secret import Secret
from flower_agent.onegate import publisher, status_attributes
from flower_agent.onegate.client import OneGate
from flower_agent.onegate.publisher import OneGatePublisher

SUPERLINK, SUPERNODE = 28, 29
TOKEN = "yVBFyedILu4FNbAaBxyyZg=="
WALL = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
SEEN = "2026-03-01T12:00:00Z"
STARTING = {"FLOWER_STATE": "starting", "FLOWER_PHASE": "image", "FLOWER_ROLE": "supernode"}
READY = {**STARTING, "FLOWER_STATE": "ready", "FLOWER_PHASE": "", "FLOWER_NODE_ID": "17"}
LATE_HEARTBEAT = 2
"""Seed of a random phase near its end, so that no heartbeat comes between other reports."""


@pytest.fixture
def gate():
    with sandbox.OneGate() as gate:
        gate.add_service(1, "flower", [("superlink", 1), ("supernode", 1)])
        gate.add_vm(SUPERNODE, "supernode_0_(service_1)", "supernode", 1, token=TOKEN)
        gate.add_vm(SUPERLINK, "superlink_0_(service_1)", "superlink", 1, token=TOKEN)
        yield gate


class Boot:
    """A VM's boot: one place for the memory, a clock, and one agent after the other."""

    def __init__(self, gate, directory):
        self.gate = gate
        self.memory = directory / "onegate.json"
        self.now = 1000.0
        self.access = OneGateAccess(gate.url, str(SUPERNODE), Secret(TOKEN))
        self.reporter = None

    def agent(self, access=None, seed=LATE_HEARTBEAT):
        """Start an agent; the one before it is gone."""
        self.close()
        self._woken = threading.Event()
        self.threads = Threads(self._woken.set)
        rng = random.Random(seed)
        self.reporter = OneGatePublisher(self.memory, self.threads, now=self.now, rng=rng)
        self.reporter.use(access or self.access)
        return self.reporter

    def offer(self, attributes, after_s=0.0):
        """Offer once, see the request to its end, and take its outcome."""
        self.now += after_s
        for _ in range(2):
            self.reporter.offer(attributes, now=self.now, wall=WALL)
            wait_for(lambda: not running(self.threads, "onegate-report"))
            wait_for(lambda: not self.reporter._reaching.running)

    def live(self, attributes, seconds, step_s=1.0):
        """Let the time pass, with an offer in each step; return the times of requests."""
        times, start = [], self.now
        while self.now < start + seconds:
            before = len(self.gate.requests)
            self.offer(attributes, step_s)
            times += [self.now - start] * (len(self.gate.requests) - before)
        return times

    def close(self):
        if self.reporter is not None and self.reporter.client is not None:
            self.reporter.client.close()


@pytest.fixture
def boot(gate, tmp_path):
    boot = Boot(gate, tmp_path)
    yield boot
    boot.close()


def bodies(gate, vmid=SUPERNODE):
    """Return the updates that OneGate took, as attributes in their order."""
    return [
        dict(line.split("=", 1) for line in update.body.splitlines())
        for update in gate.updates(vmid)
    ]


def wait_for(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it never comes"
        time.sleep(0.0005)


def outage(gate):
    """Stop OneGate; return what starts it again at its old address."""
    port = int(gate.url.rpartition(":")[2])
    gate.stop()
    return lambda: gate.start(port=port)


# An undisturbed start


def test_the_first_body_has_all_that_is_known_and_says_not_ready(gate, boot):
    boot.agent()
    boot.offer(STARTING)
    assert bodies(gate) == [{"FLOWER_SEEN": SEEN, **STARTING, "READY": "NO"}]
    assert boot.reporter.trouble is None


def test_a_start_is_two_bodies_and_ready_stands_last_and_once(gate, boot):
    boot.agent()
    boot.live(STARTING, 30)
    assert not gate.gate_open(SUPERNODE)
    boot.live(READY, 30)
    _, second = bodies(gate)
    assert second == {
        "FLOWER_SEEN": SEEN,
        "FLOWER_STATE": "ready",
        "FLOWER_PHASE": '""',
        "FLOWER_NODE_ID": "17",
        "READY": "YES",
    }
    assert list(second)[-1] == "READY"
    assert gate.gate_open(SUPERNODE)
    assert gate.attributes(SUPERNODE).items() >= READY.items()


def test_ready_goes_at_once_and_so_does_its_end(gate, boot):
    boot.agent()
    boot.offer(STARTING)
    boot.offer(READY, 0.1)
    boot.offer({**READY, "FLOWER_STATE": "failed", "FLOWER_ERROR": "port.taken: by 1"}, 0.1)
    assert [body["READY"] for body in bodies(gate)] == ["NO", "YES", "NO"]


def test_small_changes_wait_and_the_latest_wins(gate, boot):
    boot.agent()
    boot.offer(READY)
    for nodes in range(1, 15):
        boot.offer({**READY, "FLOWER_NODES": str(nodes)}, 1)
    assert len(bodies(gate)) == 1
    boot.offer({**READY, "FLOWER_NODES": "15"}, 1)
    assert bodies(gate)[1:] == [{"FLOWER_SEEN": SEEN, "FLOWER_NODES": "15"}]


def test_a_quiet_vm_sends_a_sign_of_life_every_five_minutes(gate, boot):
    boot.agent()
    times = boot.live(READY, 3600, step_s=5)
    gaps = [after - before for before, after in itertools.pairwise(times[1:])]
    assert all(265 <= gap <= 335 for gap in gaps)
    assert 9 <= len(gaps) <= 13
    assert all(body == {"FLOWER_SEEN": SEEN} for body in bodies(gate)[1:])


# OneGate in trouble

TROUBLES = {"down": "onegate.down", "401": "onegate.refused", "500": "onegate.refused"}


@pytest.mark.parametrize(("kind", "code"), TROUBLES.items())
def test_trouble_is_a_warning_makes_no_storm_and_ends(gate, boot, kind, code):
    gate.fault(kind)
    boot.agent()
    with structlog.testing.capture_logs() as logs:
        times = boot.live(STARTING, 600)
        found = boot.reporter.trouble
        gate.heal()
        recovery = boot.live(READY, 125)
    assert (found.code, found.severity) == (code, Severity.WARNING)
    assert 6 <= len(times) <= 40
    assert min(after - before for before, after in itertools.pairwise(times)) >= 2
    assert recovery
    assert boot.reporter.trouble is None
    assert gate.attributes(SUPERNODE)["READY"] == "YES"
    assert [line["event"] for line in logs] == ["onegate.failed", "onegate.recovered"]
    assert TOKEN not in json.dumps(logs)


def test_a_onegate_that_comes_late_gets_everything(gate, boot):
    back = outage(gate)
    boot.agent()
    boot.live(STARTING, 60)
    assert boot.reporter.trouble.code == "onegate.down"
    back()
    boot.live(STARTING, 125)
    assert bodies(gate) == [{"FLOWER_SEEN": SEEN, **STARTING, "READY": "NO"}]
    assert boot.reporter.trouble is None


def settled(boot, attributes=READY):
    """Let a VM tell what it has to, and be quiet for a minute."""
    boot.agent()
    boot.live(attributes, 60)
    assert boot.reporter.trouble is None


def seen_at(boot, true, within_s):
    """Return after how many seconds `true()`, while the VM has nothing to tell."""
    for second in range(within_s):
        boot.offer(READY, 1)
        if true():
            return second + 1
    raise AssertionError("it is never seen")


def test_a_onegate_that_goes_away_is_seen_by_a_vm_that_has_nothing_to_tell(gate, boot):
    settled(boot)
    back, told = outage(gate), len(gate.requests)
    with structlog.testing.capture_logs() as logs:
        assert seen_at(boot, lambda: boot.reporter.trouble, 60) <= publisher.REACH_S + 2
        found = boot.reporter.trouble
        boot.live(READY, 40)
    assert (found.code, found.severity) == ("onegate.down", Severity.WARNING)
    assert "connection refused" in found.message
    assert [line["event"] for line in logs] == ["onegate.failed"]
    back()
    with structlog.testing.capture_logs() as logs:
        seen_at(boot, lambda: boot.reporter.trouble is None, 60)
    assert [line["event"] for line in logs] == ["onegate.recovered"]
    assert len(gate.requests) == told, "nobody is asked for it, nor told of it"


def test_an_idle_loop_sees_it_within_half_a_minute(gate, boot):
    settled(boot)

    def turn():
        boot.now += 10
        boot.reporter.offer(READY, now=boot.now, wall=WALL)
        wait_for(lambda: not boot.reporter._reaching.running)

    turn()
    while boot.reporter._reaching.began_at != boot.now:
        turn()
    outage(gate)  # right after a look that was good
    for _ in range(3):
        turn()
    assert boot.reporter.trouble.code == "onegate.down"


def test_a_call_of_anybody_that_gets_no_answer_is_trouble_until_one_does(gate, boot):
    settled(boot)
    gate.fault("drop_reply", count=1)
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(AgentError):
            boot.reporter.client.service()
        assert boot.reporter.trouble.code == "onegate.down"
        boot.offer(READY)
        boot.reporter.client.service()
        assert boot.reporter.trouble is None
        boot.offer(READY)
    assert [line["event"] for line in logs] == ["onegate.failed", "onegate.recovered"]


def test_a_look_at_the_onegate_before_says_nothing_about_this_one(gate, boot):
    elsewhere = OneGateAccess(f"http://{endpoints.closed_port()}", str(SUPERNODE), Secret(TOKEN))
    boot.agent(elsewhere)
    boot.now += publisher.REACH_S
    boot.reporter._reach(boot.reporter.client, boot.now)
    wait_for(lambda: not boot.reporter._reaching.running)
    boot.reporter.use(boot.access)
    boot.offer(READY)
    assert boot.reporter.trouble is None


def test_a_lost_answer_makes_the_body_be_sent_again(gate, boot):
    boot.agent()
    boot.offer(STARTING)
    gate.fault("drop_reply", count=1)
    boot.offer(READY, 1)
    assert boot.reporter.trouble.code == "onegate.down"
    boot.live(READY, 10)
    _, second, third = bodies(gate)
    assert second == third
    assert third["READY"] == "YES"
    assert boot.reporter.trouble is None


def test_what_a_lost_answer_may_have_stored_is_taken_back(gate, boot):
    boot.agent()
    boot.offer(STARTING)
    gate.fault("drop_reply", count=1)
    boot.offer(READY, 1)
    assert gate.attributes(SUPERNODE)["READY"] == "YES"
    boot.live(STARTING, 30)
    assert gate.attributes(SUPERNODE)["READY"] == "NO"


def test_a_captive_portal_counts_as_trouble(gate, boot):
    gate.fault("garbage", body="html")
    boot.agent()
    boot.offer(READY)
    assert boot.reporter.trouble.code == "onegate.garbage"
    gate.heal()
    boot.live(READY, 30)
    assert gate.attributes(SUPERNODE)["READY"] == "YES"


def test_a_report_under_way_is_not_doubled_and_never_waited_for(gate, boot):
    boot.agent()
    gate.fault("hang", count=1)
    boot.reporter.offer(READY, now=boot.now, wall=WALL)
    wait_for(lambda: gate.requests)
    for second in range(10):
        began = time.monotonic()
        boot.reporter.offer({**READY, "FLOWER_NODES": str(second)}, now=boot.now + 20, wall=WALL)
        assert time.monotonic() - began < 0.5
        boot.now += 20
        assert boot.reporter.wait_s(boot.now) == publisher.LONGEST_WAIT_S
    gate.heal()
    boot.offer(READY)
    boot.live(READY, 30)
    assert len(gate.requests) == 2


def test_a_thread_that_cannot_be_had_is_a_failure_like_others(gate, boot):
    boot.agent()
    usual = threading.stack_size(1 << 46)  # no machine has it, so no thread begins
    try:
        boot.offer(READY)
    finally:
        threading.stack_size(usual)
    assert boot.reporter.trouble.code == "agent.bug"
    boot.live(READY, 10)
    assert gate.attributes(SUPERNODE)["READY"] == "YES"
    assert boot.reporter.trouble is None


# How long the loop may rest


def test_the_loop_rests_while_nothing_can_be_sent(gate, boot):
    boot.agent()
    boot.offer(READY)
    gate.fault("down")
    rests = []
    for _ in range(900):
        boot.offer(READY, 1)
        rests.append(boot.reporter.wait_s(boot.now))
    assert sum(rest < 1 for rest in rests) < 50
    assert max(rests) <= publisher.LONGEST_WAIT_S


def test_without_onegate_the_loop_rests_and_nothing_is_sent(boot):
    boot.reporter = OneGatePublisher(
        boot.memory, Threads(lambda: None), now=0.0, rng=random.Random(1)
    )
    boot.reporter.use(None)
    boot.reporter.offer(READY, now=1000.0, wall=WALL)
    assert boot.reporter.client is None
    assert not boot.reporter.token_lost
    assert boot.reporter.wait_s(1000.0) == publisher.LONGEST_WAIT_S
    assert not boot.memory.exists()


# What outlives the agent


def test_a_restarted_agent_repeats_nothing(gate, boot):
    boot.agent()
    boot.offer(STARTING)
    boot.offer(READY, 20)
    for seed in range(3):
        boot.agent(seed=seed)
        assert boot.live(READY, 10) == []
    boot.live({**READY, "FLOWER_NODES": "2"}, 20)
    assert bodies(gate)[2:] == [{"FLOWER_SEEN": SEEN, "FLOWER_NODES": "2"}]


def test_an_agent_that_died_before_the_answer_sends_the_body_again(gate, boot):
    boot.agent()
    boot.offer(STARTING)
    gate.fault("hang", count=1)
    boot.reporter.offer(READY, now=boot.now + 1, wall=WALL)
    wait_for(lambda: len(gate.requests) == 2)
    boot.agent()
    gate.heal()
    boot.offer(READY, 1)
    assert bodies(gate)[-1]["READY"] == "YES"


def test_a_lost_token_leaves_the_last_access_of_this_boot(gate, boot):
    boot.agent()
    boot.offer(STARTING)
    boot.reporter.use(None)
    assert boot.reporter.token_lost
    boot.offer(READY, 1)
    assert gate.attributes(SUPERNODE)["READY"] == "YES"

    boot.close()
    boot.reporter = OneGatePublisher(boot.memory, boot.threads, now=boot.now, rng=random.Random(1))
    boot.reporter.use(None)
    assert boot.reporter.token_lost
    assert boot.reporter.client.access == boot.access
    boot.offer({**READY, "FLOWER_STATE": "failed"}, 1)
    assert gate.attributes(SUPERNODE)["READY"] == "NO"
    boot.reporter.use(boot.access)
    assert not boot.reporter.token_lost


def test_the_token_is_remembered_though_onegate_was_never_reached(gate, boot):
    gate.fault("down")
    boot.agent()
    boot.offer(STARTING)
    boot.close()
    boot.reporter = OneGatePublisher(boot.memory, boot.threads, now=boot.now, rng=random.Random(1))
    boot.reporter.use(None)
    assert boot.reporter.client.access == boot.access


def test_a_new_token_is_used_at_once_and_nothing_is_repeated(gate, boot):
    boot.agent(OneGateAccess(gate.url, str(SUPERNODE), Secret("an-old-token")))
    boot.offer(STARTING)
    assert boot.reporter.trouble.code == "onegate.refused"
    boot.reporter.use(boot.access)
    boot.live(STARTING, 10)
    assert boot.reporter.trouble is None
    assert len(bodies(gate)) == 1


def test_the_memory_alone_holds_the_token_and_is_root_s_own(boot, tmp_path):
    boot.memory.write_text("old")
    boot.memory.chmod(0o644)
    boot.agent()
    boot.offer(READY)
    assert stat.S_IMODE(boot.memory.stat().st_mode) == 0o600
    assert json.loads(boot.memory.read_text())["token"] == TOKEN
    assert [path for path in tmp_path.rglob("*") if TOKEN in path.read_text()] == [boot.memory]
    assert TOKEN not in repr(vars(boot.reporter)) + repr(vars(boot.reporter.client))


DAMAGED = {
    "empty": b"",
    "cut off": b'{"endpoint": "http://127.0.0.1:1", "tok',
    "not an object": b"[]",
    "null": b"null",
    "a number": b"17",
    "text": b'"text"',
    "binary": b"\xff\xfe\0",
    "attributes of another shape": b'{"endpoint":"e","vmid":"1","token":"t","attributes":["a"]}',
    "without a token": b'{"endpoint":"e","vmid":"1","attributes":{}}',
    "deep": b"[" * 100_000,
    "large": b" " * (publisher.MAX_BYTES + 1),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_memory_counts_as_none(gate, boot, content):
    boot.memory.write_bytes(content)
    boot.agent()
    assert not boot.reporter.token_lost
    boot.offer(STARTING)
    assert bodies(gate) == [{"FLOWER_SEEN": SEEN, **STARTING, "READY": "NO"}]
    assert json.loads(boot.memory.read_text())["attributes"] == {**STARTING, "READY": "NO"}


def test_a_damaged_memory_gives_no_access(boot):
    boot.memory.write_bytes(b"{")
    boot.reporter = OneGatePublisher(
        boot.memory, Threads(lambda: None), now=0.0, rng=random.Random(1)
    )
    boot.reporter.use(None)
    assert boot.reporter.client is None


def test_a_memory_that_cannot_be_written_is_said_once_and_stops_nothing(gate, boot):
    boot.memory.mkdir()
    boot.agent()
    with structlog.testing.capture_logs() as logs:
        boot.live(STARTING, 20)
        boot.live(READY, 20)
    assert gate.attributes(SUPERNODE)["READY"] == "YES"
    assert [line["event"] for line in logs] == ["state.unwritable"]


def test_a_boot_knows_nothing_of_the_one_before(gate, boot):
    boot.agent()
    boot.offer(READY)
    boot.memory.unlink()  # /run is empty after a boot; OneGate still says READY=YES
    boot.agent()
    boot.offer(STARTING)
    assert bodies(gate)[-1] == {"FLOWER_SEEN": SEEN, **STARTING, "READY": "NO"}


def test_the_memory_of_another_vm_is_not_believed(gate, boot):
    boot.agent()
    boot.offer(STARTING)
    boot.agent(OneGateAccess(gate.url, str(SUPERLINK), Secret(TOKEN)))
    boot.offer(STARTING)
    assert bodies(gate, SUPERLINK) == bodies(gate, SUPERNODE)


def test_an_agent_that_only_looks_leaves_no_file(boot):
    boot.agent()
    assert boot.reporter.client is not None
    assert not boot.memory.exists()


def test_every_attribute_of_a_full_report_is_kept(gate, boot):
    told = {**READY, "FLOWER_CA_CERT": "TUlJ" * 700, "FLOWER_ENDPOINT": "10.0.0.1:9092"}
    odd = status_attributes.words('peer.lost: "a", [b] \\ c=READY=YES \U0001f33c')
    boot.agent()
    boot.offer({**told, "FLOWER_STATE": "degraded", "FLOWER_ERROR": odd})
    assert gate.attributes(SUPERNODE)["FLOWER_ERROR"] == odd
    assert not gate.gate_open(SUPERNODE)
    assert gate.attributes(SUPERNODE)["FLOWER_CA_CERT"] == told["FLOWER_CA_CERT"]


def test_no_host_is_asked_but_the_one_of_the_access(boot):
    dead = OneGateAccess(f"http://{endpoints.closed_port()}", str(SUPERNODE), Secret(TOKEN))
    boot.agent(dead)
    boot.offer(READY)
    assert boot.reporter.trouble.message.endswith("connection refused")
    assert boot.gate.requests == ()


# What another VM wrote over it

WHOLE = {
    "FLOWER_ROLE": "superlink",
    "FLOWER_STATE": "ready",
    "FLOWER_ENDPOINT": "10.0.0.5:9092",
    "FLOWER_NODE_AUTH": "YES",
    "FLOWER_TLS": "YES",
    "FLOWER_VERSION": "1.25.0",
    "FLOWER_PHASE": "",
}
FORGED = {
    "READY": "NO",
    "FLOWER_STATE": "failed",
    "FLOWER_VERSION": "1.42.0",
    "FLOWER_TLS": "NO",
    "FLOWER_NODE_AUTH": "NO",
    "FLOWER_ENDPOINT": "10.6.6.6:1",
    "FLOWER_ROLE": "supernode",
}


@pytest.mark.parametrize("name", FORGED)
def test_what_nodes_or_oneflow_act_on_is_put_back(gate, boot, name):
    access = OneGateAccess(gate.url, str(SUPERLINK), Secret(TOKEN))
    boot.agent(access)
    boot.live(WHOLE, 60, step_s=20)
    kept = gate.attributes(SUPERLINK)[name]
    intruder = OneGate(access)
    intruder.update(status_attributes.render({name: FORGED[name]}))
    intruder.close()
    assert gate.attributes(SUPERLINK)[name] == FORGED[name]
    for _ in range(40):
        boot.offer(WHOLE, 20)
        wait_for(lambda: not running(boot.threads, "onegate-verify"))
    assert gate.attributes(SUPERLINK)[name] == kept
