"""What OneGate is told, in which form, and when: seen from the OneGate of the sandbox."""

import datetime
import itertools
import random
import urllib.parse

import onegate_template as template
import pytest
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from onegate_cloud import Cloud, Refused

from flower_agent.model.errors import Finding, warning
from flower_agent.model.published import Published
from flower_agent.model.state import Partition
from flower_agent.model.status import Status, stamp
from flower_agent.onegate import status_attributes
from flower_agent.onegate.status_attributes import Sent, render, words

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
VMID = 28
GATE_TEXTS = (
    "READY=YES", 'READY = "YES"', "READY=YESTERDAY", "'READY'='YES'", "READY,=,YES", "READY=\nYES",
    "READY\\=YES", "ALREADY = YES", "x READY", "=YES", "READY[=]YES", "READYé=éYES", "READY=;YES",
)  # fmt: skip
TRICKY = st.one_of(
    st.text(),
    st.text("READYS=\"' ,\\\n#&?[]{}", max_size=40),
    st.lists(st.sampled_from([*GATE_TEXTS, "READY", "=", "YES", '"', " ", ",", "\n"])).map("".join),
)


def form(body):
    """Return the attributes in a form body, as OneGate's web server reads it."""
    fields = urllib.parse.parse_qs(body, strict_parsing=True, max_num_fields=2)
    assert fields["type"] == ["1"]
    return fields["data"][0]


def stored(body):
    """Return what a VM has after one update."""
    pairs = template.parse(template.escape(form(render(body))))
    return template.merge({}, pairs)


def attributes(state="starting", **others):
    return {"FLOWER_STATE": state, "FLOWER_ERROR": "", **others}


class Vm:
    """A VM that tells one OneGate what it knows, on a clock that only `live` moves."""

    def __init__(self, seed=0, scale=1.0):
        self.random = random.Random(seed)
        self.cloud = Cloud()
        self.cloud.add_vm(VMID, "superlink_0_(service_1)")
        self.scale = scale
        self.reboot()

    def reboot(self):
        self.now = 1000.0
        self.told = attributes()
        self.away = self.lossy = False
        self.bodies = []
        self.tries = []
        self.sent = Sent(heartbeat_at=self.now + 300 * self.random.random() * self.scale)

    def live(self, seconds, state=None, *, turn_s=1.0, **others):
        """Turn for `seconds`, with what is known from now on."""
        if state is not None or others:
            self.told = {**self.told, **({"FLOWER_STATE": state} if state else {}), **others}
        for _ in range(round(seconds / turn_s)):
            self._turn()
            self.now += turn_s

    def _turn(self):
        body = status_attributes.due(self.sent, self.told, now=self.now, scale=self.scale)
        if body is None:
            return
        seen = NOW + datetime.timedelta(seconds=self.now)
        body = {"FLOWER_SEEN": stamp(seen), **body}
        text = form(render(body))
        self.tries.append((self.now, body, not self.sent.attributes))
        if not self.away:
            (machine,) = self.cloud.machines()
            self.cloud.update(machine, text, 1)
            self.bodies.append((self.now, body))
        how = {"now": self.now, "scale": self.scale}
        if self.away or self.lossy:
            self.sent = status_attributes.failed(
                self.sent, body, chance=self.random.random(), **how
            )
        else:
            self.sent = status_attributes.acknowledged(
                self.sent, body, phase=self.random.random(), **how
            )

    @property
    def at_onegate(self):
        return self.cloud.attributes(VMID)

    @property
    def gate_open(self):
        return self.cloud.gate_open(VMID)

    def states(self):
        return [(b.get("FLOWER_STATE"), b.get("READY")) for _, b in self.bodies]


@pytest.fixture
def vm():
    return Vm()


# When a start is told


@pytest.mark.parametrize("seed", range(20))
def test_an_undisturbed_start_is_two_bodies(seed):
    vm = Vm(seed)
    vm.live(1, FLOWER_PHASE="context", FLOWER_ROLE="superlink")
    vm.live(6, FLOWER_PHASE="container", turn_s=0.05)
    vm.live(6, FLOWER_PHASE="health", turn_s=0.05)
    vm.live(2, "ready", FLOWER_PHASE="", FLOWER_CA_CERT="TUlJ")
    assert vm.states() == [("starting", "NO"), ("ready", "YES")]


def test_the_first_body_of_a_boot_says_not_ready_with_all_that_is_known(vm):
    vm.live(1, FLOWER_ROLE="superlink")
    (_, body), *more = vm.bodies
    assert not more
    assert {**vm.told, "READY": "NO"}.items() <= body.items()


def test_the_first_body_takes_back_what_a_power_cut_left(vm):
    vm.live(30, "ready")
    assert vm.at_onegate["READY"] == "YES"
    vm.reboot()
    vm.live(1)
    assert (vm.at_onegate["READY"], vm.at_onegate["FLOWER_STATE"]) == ("NO", "starting")


def test_ready_stands_last_in_the_body_that_says_so(vm):
    vm.live(1)
    vm.live(1, "ready", FLOWER_ENDPOINT="10.0.0.5:9092", ZZZ="1")
    assert list(vm.bodies[-1][1])[-1] == "READY"
    assert vm.gate_open


def test_ready_is_never_told_without_its_state(vm):
    vm.live(1, "ready")
    known = {name: value for name, value in vm.sent.attributes.items() if name != "READY"}
    vm.sent = Sent(attributes=known)
    vm.live(1)
    assert vm.states() == [("ready", "YES")] * 2


def test_the_gate_stays_shut_until_then(vm):
    vm.live(700, FLOWER_PHASE="discover")
    vm.live(100, "failed", FLOWER_ERROR="ready.timeout: late")
    assert not vm.gate_open


@pytest.mark.parametrize("state", ["ready", "failed"])
def test_ready_and_failed_go_at_once(vm, state):
    vm.live(1)
    vm.live(1, state)
    assert [at for at, _ in vm.bodies] == [1000, 1001]


# When changes are told


def test_what_is_known_is_not_told_again(vm):
    vm.live(1, "ready", FLOWER_NODES="2")
    vm.live(20, FLOWER_NODES="3")
    assert set(vm.bodies[-1][1]) == {"FLOWER_SEEN", "FLOWER_NODES"}


def test_a_change_waits_for_its_fifteen_seconds_and_the_latest_wins(vm):
    vm.live(1, "ready", FLOWER_NODES="0")
    for nodes in range(1, 15):
        vm.live(1, FLOWER_NODES=str(nodes))
    vm.live(10)
    assert [(at, b.get("FLOWER_NODES")) for at, b in vm.bodies] == [(1000, "0"), (1015, "14")]


def test_a_change_that_is_undone_in_time_is_not_told(vm):
    vm.live(1, "ready")
    vm.live(5, "degraded")
    vm.live(30, "ready")
    assert len(vm.bodies) == 1


def test_the_end_of_ready_is_told_within_fifteen_seconds(vm):
    vm.live(20, "ready")
    vm.live(2, FLOWER_NODES="1")
    changed = vm.now
    vm.live(30, "degraded")
    at, body = vm.bodies[-1]
    assert (body["FLOWER_STATE"], body["READY"]) == ("degraded", "NO")
    assert at - changed <= 15
    assert vm.at_onegate["READY"] == "NO"


def test_ready_again_is_told_with_its_state(vm):
    vm.live(20, "ready")
    vm.live(20, "degraded")
    vm.live(1, "ready")
    assert vm.states() == [("ready", "YES"), ("degraded", "NO"), ("ready", "YES")]


changes = st.lists(
    st.tuples(
        st.sampled_from(["starting", "ready", "degraded", "failed"]),
        st.sampled_from(["", "a", "b"]),
        st.integers(1, 40),
        st.sampled_from(["up", "away", "lossy"]),
    ),
    max_size=12,
)


@effort(max_examples=40, deadline=None)
@given(changes, st.integers(0, 99))
def test_whatever_happens_bodies_are_few_and_ready_is_true(story, seed):
    vm = Vm(seed)
    for state, error, seconds, onegate in story:
        vm.away, vm.lossy = onegate == "away", onegate == "lossy"
        vm.live(seconds, state, FLOWER_ERROR=error)
    for (before, *_), (at, body, first) in itertools.pairwise(vm.tries):
        urgent = body.get("FLOWER_STATE") in ("ready", "failed")
        assert at - before >= 15 or urgent or first, (before, at, body)
    for _, body, _ in vm.tries:
        assert (body.get("READY") == "YES") <= (body.get("FLOWER_STATE") == "ready")
        assert "READY" not in body or list(body)[-1] == "READY"
    vm.away = vm.lossy = False
    vm.live(150)
    ready = "YES" if vm.told["FLOWER_STATE"] == "ready" else "NO"
    assert vm.at_onegate.items() >= {**vm.told, "READY": ready}.items()


# When nothing changes


@pytest.mark.parametrize("seed", range(5))
def test_a_heartbeat_comes_every_five_minutes_give_or_take_a_tenth(seed):
    vm = Vm(seed)
    vm.live(3600, "ready")
    beats = [at for at, body in vm.bodies if set(body) == {"FLOWER_SEEN"}]
    assert 10 <= len(beats) <= 14
    pauses = [after - before for before, after in itertools.pairwise(beats)]
    assert all(270 <= pause <= 331 for pause in pauses)
    assert len(set(pauses)) > 1


def test_vms_that_boot_at_once_do_not_beat_at_once():
    first = []
    for seed in range(100):
        vm = Vm(seed)
        vm.live(2)
        vm.live(340, "ready")
        first += [at - 1000 for at, body in vm.bodies if set(body) == {"FLOWER_SEEN"}][:1]
    assert len(first) == 100
    counts = [sum(low <= at < low + 30 for at in first) for low in range(0, 300, 30)]
    assert max(counts) < 25


def test_a_change_does_not_put_the_heartbeat_off_for_ever(vm):
    for number in range(60):
        vm.live(20, "ready", FLOWER_NODES=str(number))
    assert any(set(body) == {"FLOWER_SEEN"} for _, body in vm.bodies)


def test_a_heartbeat_never_follows_a_body_within_fifteen_seconds(vm):
    vm.sent = Sent(heartbeat_at=vm.now + 3)
    vm.live(14, "ready")
    assert len(vm.bodies) == 1
    vm.live(4)
    assert len(vm.bodies) == 2


# When OneGate does not answer


def test_all_that_was_in_a_failed_body_is_sent_again(vm):
    vm.live(20, FLOWER_NODES="1", FLOWER_ROLE="superlink")
    vm.away = True
    vm.live(10, "ready", FLOWER_NODES="2")
    vm.away = False
    vm.live(60)
    _, body = vm.bodies[-1]
    assert {"FLOWER_STATE": "ready", "FLOWER_NODES": "2", "READY": "YES"}.items() <= body.items()
    assert "FLOWER_ROLE" not in body


def test_a_body_whose_answer_was_lost_is_sent_again_though_onegate_has_it(vm):
    vm.live(20)
    vm.lossy = True
    vm.live(1, "ready")
    assert vm.at_onegate["READY"] == "YES"
    vm.lossy = False
    vm.live(10, "starting")
    vm.live(30)
    assert (vm.at_onegate["READY"], vm.at_onegate["FLOWER_STATE"]) == ("NO", "starting")


@pytest.mark.parametrize("seed", range(5))
def test_failures_wait_longer_each_time_and_never_two_minutes(seed):
    vm = Vm(seed)
    vm.away = True
    vm.live(3600)
    waits = [after - before for (before, *_), (after, *_) in itertools.pairwise(vm.tries)]
    assert all(2 <= wait <= 121 for wait in waits)
    assert waits[0] <= 5
    assert max(waits[8:]) > 60
    assert len(set(waits[8:])) > 5


def test_the_wait_has_full_jitter():
    sent = Sent(failures=20)
    bounds = [
        status_attributes.failed(sent, {}, now=0, chance=chance).not_before for chance in (0, 1)
    ]
    assert bounds == [status_attributes.RETRY_FIRST_S, status_attributes.RETRY_LONGEST_S]


def test_an_answer_ends_the_waiting(vm):
    vm.away = True
    vm.live(600)
    vm.away = False
    vm.live(130)
    assert (vm.sent.failures, vm.sent.not_before) == (0, 0.0)


def test_no_heartbeat_hammers_a_onegate_that_is_down(vm):
    vm.live(20, "ready")
    vm.away = True
    vm.live(3600)
    assert len(vm.tries) < 3600 / 30
    assert vm.sent.heartbeat_at >= vm.sent.not_before


def test_tests_may_shorten_every_wait_alike():
    vm = Vm(scale=0.01)
    vm.live(0.1, "ready", turn_s=0.01)
    vm.live(0.2, FLOWER_NODES="1", turn_s=0.01)
    vm.live(7, turn_s=0.01)
    assert 3 <= len(vm.bodies) <= 5


# The words


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("10.0.0.5:9092", "10.0.0.5:9092"),
        ("[fd00::1]:9092", "fd00::1:9092"),
        ("tls.chain: 'CN=a', issued by \"b\"", "tls.chain: CN=a; issued by b"),
        ("one\ntwo\tthree  four", "one two three four"),
        ("C:\\temp (gone)", "C:/temp gone"),
        ("not used (GPU_ENABLED=NO)", "not used GPU_ENABLED=NO"),
        ("waiting …", "waiting"),
        ("grün 🙂", "grn"),
        ("#1?", "1"),
        ("a & b", "a & b"),
        ("READY=YES", "READY:YES"),
        ("x: READY = YESTERDAY, n=1", "x: READY : YESTERDAY; n:1"),
    ],
)
def test_words_stay_readable(text, kept):
    assert words(text) == kept


def test_long_words_are_cut():
    assert words("word " * 1000) == ("word " * 80).strip()


@given(TRICKY)
@example("x" * 399 + "?y")
@example("x" * 398 + " #y")
def test_words_of_words_are_the_same(text):
    assert words(words(text)) == words(text)


@given(st.lists(TRICKY, min_size=1, max_size=4))
@example(list(GATE_TEXTS))
def test_any_text_arrives_as_its_words_and_opens_no_gate(texts):
    body = {"FLOWER_STATE": "starting"}
    body |= {f"FLOWER_{number}": words(text) for number, text in enumerate(texts)}
    body["READY"] = "NO"
    sent = form(render(body))
    assert not template.opens_gate(template.escape(sent))
    assert template.merge({}, template.parse(template.escape(sent))) == dict(sorted(body.items()))


@effort(max_examples=60)
@given(TRICKY, TRICKY, TRICKY)
def test_no_finding_makes_an_unready_vm_ready(message, hint, told):
    status = Status(
        state="failed",
        since=NOW,
        phase="tls",
        phase_since=NOW,
        written_at=NOW,
        agent_version="0.1.0",
        error=Finding("tls.chain", message, hint),
        warnings=(warning("tls.disabled", message), warning("tls.disabled", told)),
        tls=True,
    )
    vm = Vm()
    vm.told = status_attributes.attributes(status, Published(gpu=told))
    vm.live(1)
    assert not vm.gate_open
    assert not template.reads_ready(vm.at_onegate)
    assert vm.at_onegate["FLOWER_ERROR"] == words(str(status.error))


# The attributes


def test_everything_that_the_contract_names_is_told():
    status = Status(
        state="degraded",
        since=NOW,
        phase="peer",
        phase_since=NOW,
        written_at=NOW,
        agent_version="0.1.0",
        role="supernode",
        version="1.25.0",
        error=Finding("peer.lost", "gone"),
        warnings=(warning("tls.disabled", "off"), warning("version.mixed", "1.24, 1.25")),
        tls=False,
    )
    assert status_attributes.attributes(status, Published(partition=Partition(0, 2))) == {
        "FLOWER_STATE": "degraded",
        "FLOWER_PHASE": "peer",
        "FLOWER_ERROR": "peer.lost: gone",
        "FLOWER_WARNING": "tls.disabled: off; version.mixed: 1.24; 1.25",
        "FLOWER_ROLE": "supernode",
        "FLOWER_VERSION": "1.25.0",
        "FLOWER_AGENT_VERSION": "0.1.0",
        "FLOWER_TLS": "NO",
        "FLOWER_PARTITION": "0/2",
    }


def test_what_is_not_known_is_empty_and_what_was_wrong_is_emptied(vm):
    status = Status(
        state="ready",
        since=NOW,
        phase=None,
        phase_since=NOW,
        written_at=NOW,
        agent_version="0.1.0",
    )
    vm.live(1, FLOWER_ERROR="tls.chain: no")
    vm.told = status_attributes.attributes(status, Published())
    vm.live(1)
    assert [vm.at_onegate[f"FLOWER_{name}"] for name in ("PHASE", "ERROR", "ROLE", "TLS")] == [
        ""
    ] * 4


def test_a_long_ca_arrives_whole(vm):
    ca = "ABC" * 2000 + "A"
    status = Status(
        state="starting",
        since=NOW,
        phase=None,
        phase_since=NOW,
        written_at=NOW,
        agent_version="0.1.0",
    )
    vm.told = status_attributes.attributes(status, Published(ca_pem=ca))
    vm.live(1)
    assert vm.at_onegate["FLOWER_CA_CERT"] == "QUJD" * 2000 + "QQ=="


# The body


def test_a_body_is_one_form_with_every_attribute():
    body = {"A": "1 2", "B": "", "C_1": "x=y&z%+"}
    assert render(body) == "data=A%3D1%202%0AB%3D%22%22%0AC_1%3Dx%3Dy%26z%25%2B&type=1"
    assert stored(body) == body


@pytest.mark.parametrize("name", ["ready", "1A", "XMLA", "A-B", "A B", "", "É", "A\n"])
def test_a_name_that_onegate_would_change_is_refused(name):
    with pytest.raises(ValueError, match="does not keep an attribute named"):
        render({name: "x"})


@pytest.mark.parametrize(
    "value", [" x", "x ", "a,b", "a\nB=c", '"', "[1]", "a\\b", "#x", "&x", "?x", "é", "x\n", " "]
)
def test_a_value_that_onegate_would_change_is_refused(value):
    with pytest.raises(ValueError, match="does not keep the value of FLOWER_X"):
        render({"FLOWER_X": value})


@pytest.mark.parametrize(
    "body",
    [
        {"READY": "YES"},
        {"READY": "YES", "FLOWER_STATE": "starting"},
        {"FLOWER_STATE": "ready", "FLOWER_ERROR": "READY=YES"},
        {"FLOWER_READY": "YES"},
        {"ALREADY": "YESTERDAY"},
        {"FLOWER_ERROR": "x READY = YES"},
        {"READY": "NO", "FLOWER_STATE": "ready", "FLOWER_X": "READY =YES"},
    ],
)
def test_a_body_that_would_open_the_gate_without_being_ready_is_refused(body):
    with pytest.raises(ValueError, match="only the report of state ready"):
        render(body)


NAMES = st.text(max_size=3) | st.text("AREDYXML_1a", min_size=1, max_size=6)


@given(st.dictionaries(NAMES, st.text() | st.text("AB=;:/# &?", max_size=9), min_size=1))
def test_a_body_is_kept_whole_by_onegate_or_refused_here(body):
    try:
        text = form(render(body))
    except ValueError:
        return
    assert template.merge({}, template.parse(template.escape(text))) == dict(sorted(body.items()))


def test_the_sandbox_does_refuse_what_is_sent_without_care(vm):
    (machine,) = vm.cloud.machines()
    with pytest.raises(Refused):
        vm.cloud.update(machine, "FLOWER_ERROR=a,b", 1)


def test_the_first_of_several_errors_says_how_many_more_there_are():
    errors = tuple(Finding("setting.invalid", f"{name} is bad") for name in "ABC")
    status = Status(
        state="failed",
        since=NOW,
        phase="context",
        phase_since=NOW,
        written_at=NOW,
        agent_version="0.1.0",
        error=errors[0],
        errors=errors,
    )
    told = status_attributes.attributes(status, Published())
    assert told["FLOWER_ERROR"] == "setting.invalid: A is bad - and 2 more: flower-agent status"
