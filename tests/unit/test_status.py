"""What ``flower-agent status`` prints and exits with."""

import datetime
import json
import re

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from flower_agent import cli, files, process
from flower_agent.commands import status as commands_status
from flower_agent.model import status as model_status
from flower_agent.model.errors import Finding, warning
from flower_agent.model.status import Condition, Mark, Status
from flower_agent.paths import Paths
from flower_agent.process import Process
from flower_agent.reporting import status_text

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def ago(**span):
    return NOW - datetime.timedelta(**span)


def values(**differences):
    return {
        "state": "ready",
        "since": ago(hours=3),
        "phase": None,
        "phase_since": ago(hours=3),
        "written_at": ago(seconds=5),
        "agent_version": "0.1.0",
        "role": "superlink",
        "version": "1.25.0",
    } | differences


def written(**differences):
    """Return a status as it is read back from its file."""
    return json.loads(json.dumps(model_status.document(Status(**values(**differences)))))


def text(document, *, running=True):
    shown = status_text.render(document, running=running, now=NOW)
    assert not shown.endswith("\n")
    for line in shown.splitlines():
        assert len(line) <= 80 or len(line.split()) <= 2, line
        assert line == line.rstrip()
    return shown


def code(document, *, running=True):
    return model_status.exit_code(document, running=running, now=NOW)


# Exit codes


@pytest.mark.parametrize(
    ("state", "expected"), [("ready", 0), ("failed", 1), ("degraded", 2), ("starting", 5)]
)
def test_each_state_has_its_exit_code(state, expected):
    assert code(written(state=state)) == expected


@pytest.mark.parametrize("document", [None, written(), written(state="failed"), {}])
def test_an_agent_that_does_not_run_is_told_first(document):
    assert code(document, running=False) == 3


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"schema": 2, "state": "ready"},
        {**written(), "schema": 2},
        written(state="resting"),
        {**written(), "state": None},
        written(written_at=ago(seconds=91)),
        {**written(), "written_at": None},
        {**written(), "written_at": "yesterday"},
        {**written(), "written_at": "2026-03-01T11:59:59"},
    ],
)
def test_what_is_not_known_is_unknown(document):
    assert code(document) == 4


def test_a_word_of_the_last_ninety_seconds_counts():
    assert code(written(written_at=ago(seconds=90))) == 0


def test_the_exit_codes_differ():
    codes = [
        *model_status.EXIT_CODES.values(),
        model_status.NOT_RUNNING,
        model_status.UNKNOWN,
        model_status.TIMED_OUT,
    ]
    assert sorted(codes) == [0, 1, 2, 3, 4, 5, 124]


# Text; whole screens are in `test_status_cases`


def test_facts_stand_in_their_order_and_unknown_ones_behind():
    facts = tuple(Condition(name, Mark.OK, "") for name in ("onegate", "newer", "tls", "context"))
    shown = text(written(facts=facts, containers=({"name": "x", "status": "running"},)))
    rows = [line.split()[0] for line in shown.splitlines()[2:]]
    assert rows == ["context", "tls", "containers", "onegate", "newer"]


@pytest.mark.parametrize(
    ("code", "phase", "logs"),
    [
        ("discover.waiting", "discover", "logs:    journalctl -u flower-agent -n 50"),
        ("peer.clock", "peer", "logs:    flower-agent logs"),
        ("container.exited", "container", None),  # its remedy says so already
    ],
)
def test_trouble_says_where_more_can_be_read(code, phase, logs):
    document = written(state="starting", phase=phase, error=Finding(code, "x"))
    lines = [line.strip() for line in text(document).splitlines()]
    assert [line for line in lines if line.startswith("logs:")] == ([logs] if logs else [])


def test_color_repeats_what_a_word_says_and_is_all_that_it_adds():
    document = written(
        state="degraded",
        error=Finding("peer.clock", "ready or failed"),
        warnings=(warning("clock.skew", "x"),),
        facts=(
            Condition("tls", Mark.OK, "ok"),
            Condition("peer", Mark.BAD, "bad"),
            Condition("gpu", Mark.OFF, ""),
        ),
    )
    colored = status_text.render(document, running=True, now=NOW, color=True)
    assert re.sub("\x1b\\[[0-9]+m", "", colored) == text(document)
    painted = re.findall("\x1b\\[([0-9]+)m(.*?)\x1b\\[0m", colored)
    assert painted == [
        ("33", "degraded"), ("31", "cause"), ("33", "warning"), ("32", "ok"), ("2", "off"),
        ("31", "bad"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tty", "environment", "expected"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_only_a_terminal_gets_color(tty, environment, expected):
    class Stream:
        def isatty(self):
            return tty

    assert commands_status.colored(Stream(), environment) is expected


@pytest.mark.parametrize("document", [None, {"schema": 7}])
def test_an_agent_that_never_ran(document):
    assert text(document, running=False) == (
        "not running: no flower-agent runs here\n  fix: systemctl start flower-agent"
    )


def test_an_agent_that_ended_leaves_its_last_word():
    document = written(
        version="1.25.0-py3.13-ubuntu24.04",
        written_at=ago(minutes=7),
        facts=(Condition("tls", Mark.OK, "until 2027-01-01"),),
    )
    assert text(document, running=False).splitlines() == [
        "not running: no agent runs here; last status: ready for 3 hours (SuperLink,",
        "  Flower 1.25.0-py3.13-ubuntu24.04)",
        "  fix: systemctl start flower-agent",
        "",
        "the details below are 7 min old",
        "",
        "  tls         ok       until 2027-01-01",
    ]


def test_an_agent_that_fell_silent():
    document = written(written_at=ago(minutes=7), facts=(Condition("tls", Mark.OK, "until 2027"),))
    assert text(document).splitlines()[:4] == [
        "unknown: no status for 7 min; last status: ready for 3 hours (SuperLink, Flower",
        "  1.25.0)",
        "",
        "the details below are 7 min old",
    ]


def test_an_agent_that_has_not_spoken_yet():
    assert text(None) == "unknown: the agent runs but has not written a status yet"


def test_a_status_of_another_agent_is_not_guessed_at():
    document = {"schema": 2, "state": "ready", "error": "text", "facts": 7}
    assert text(document) == (
        "unknown: the status has schema 2, this program reads 1\n"
        "  fix: use the flower-agent command of the running agent"
    )


def test_a_word_wider_than_the_screen_stays_whole():
    reference = "registry.example.org:5000/mirror/of/flwr/superlink:1.25.0-py3.13-ubuntu24.04"
    document = written(
        facts=(Condition("image", Mark.OK, f"{reference}, flwr/superexec:1.25.0"),),
        error=Finding("state.unwritable", f"/{'x' * 90} is full"),
    )
    shown = status_text.render(document, running=True, now=NOW)
    assert f"{reference},\n" in shown
    assert f"/{'x' * 90}\n" in shown


def test_nothing_that_others_said_reaches_the_terminal_as_it_is():
    evil = "\x1b[2Jgone\x9b31m\r\x00"
    shown = text(
        written(
            error=Finding("container.exited", evil),
            facts=(Condition("peer", Mark.BAD, evil),),
            containers=({"name": evil, "status": evil},),
            commands=((evil, evil),),
        )
    )
    assert all(letter.isprintable() or letter == "\n" for letter in shown)


@pytest.mark.parametrize(
    ("seconds", "age"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"),
     (7200, "2 hours"), (172_799, "47 hours"), (172_800, "2 days"), (10**8, "1157 days")],
)  # fmt: skip
def test_an_age_is_told_in_the_one_unit_that_says_enough(seconds, age):
    assert text(written(since=ago(seconds=seconds))).startswith(f"ready for {age} (")


@pytest.mark.parametrize("since", [None, "", "soon", "2026-03-01T12:00:00"])
def test_an_age_that_cannot_be_read_is_unknown(since):
    assert text({**written(), "since": since}).startswith("ready for an unknown time (")


WORDS = st.text("ab\x1b\n é,", max_size=120)


@effort(max_examples=50)
@given(
    st.builds(Finding, code=st.just("tls.chain"), message=WORDS, hint=WORDS),
    st.lists(st.builds(Condition, st.just("image"), st.sampled_from(Mark), WORDS), max_size=3),
    st.sampled_from(["1.25.0", "1.25.0-py3.13-ubuntu24.04"]),
    st.booleans(),
)
def test_the_text_fits_80_columns(error, facts, version, running):
    document = written(
        state="starting",
        phase="container",
        version=version,
        error=error,
        errors=(error, error),
        warnings=(error,),
        facts=tuple(facts),
    )
    for line in status_text.render(document, running=running, now=NOW).splitlines():
        assert len(line) <= 80 or len(line.split()) <= 3, line


# The file


def test_a_finding_is_told_with_code_words_and_remedy():
    found = written(error=Finding("docker.down", "no answer"))["error"]
    assert found == {
        "code": "docker.down",
        "message": "no answer",
        "hint": "systemctl status docker; journalctl -u docker -n 50; then: systemctl start docker",
        "severity": "error",
    }


def test_a_fact_is_told_with_its_mark():
    found = written(facts=(Condition("docker", Mark.OK, "answers"),))["facts"]
    assert found == [{"name": "docker", "mark": "ok", "detail": "answers"}]


def test_times_are_utc_whatever_the_zone():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert model_status.stamp(NOW.astimezone(zone)) == "2026-03-01T12:00:00Z"
    assert written()["written_at"] == "2026-03-01T11:59:55Z"


def test_the_schema_is_told():
    assert written()["schema"] == 1


# What cannot be believed


@pytest.fixture
def vm(tmp_path):
    """The places of an agent with a status file."""
    found = Paths(tmp_path)
    found.status.parent.mkdir(parents=True)
    return found


def ask(vm, capsys, *words):
    code = cli.main(["--root", str(vm.root), "status", *words])
    return code, capsys.readouterr()


def fresh(writer, **differences):
    now = datetime.datetime.now(datetime.UTC)
    who = {"pid": writer.pid, "pid_started": writer.started} if writer else {}
    return json.dumps(model_status.document(Status(**values(written_at=now, **who, **differences))))


GONE = Process(1, 1)


@pytest.mark.parametrize(
    "damaged",
    [
        "[" * 50_000, "{" * 10, "", "null", "[]", '"ready"', "1" * 5000, "\0", "\x1b[2J",
        '{"schema": 1, "facts": 5}',
        '{"schema": 1, "facts": [5]}',
        '{"schema": 1, "facts": [{"name": 1, "mark": [], "detail": {}}]}',
        '{"schema": 1, "facts": {"tls": "ok"}}',
        '{"schema": 1, "error": "down"}',
        '{"schema": 1, "error": {"code": 1}}',
        '{"schema": 1, "errors": [[]]}',
        '{"schema": 1, "warnings": {"a": 1}}',
        '{"schema": 1, "containers": [{"name": "x"}]}',
        '{"schema": 1, "supernodes": [{"node_id": 7}]}',
        '{"schema": 1, "commands": [["one"]]}',
        '{"schema": 1, "commands": 7}',
        '{"schema": 1, "state": {"ready": true}}',
        '{"schema": 1, "pid": "1", "pid_started": 1}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("words", [(), ("--json",), ("--wait", "--timeout", "0s")])
def test_a_damaged_status_file_is_unknown_with_one_sentence(vm, capsys, damaged, words):
    vm.status.write_text(damaged)
    code, said = ask(vm, capsys, *words)
    assert code == 4
    assert said.out == ""
    assert said.err.startswith(f"state.corrupt: the status file {vm.status} is damaged: ")
    assert said.err.count("\n") == 2


def test_a_status_without_some_keys_or_with_new_ones_is_shown(vm, capsys):
    vm.status.write_text('{"schema": 1, "state": "ready", "news": [1]}')
    assert ask(vm, capsys)[0] == 3


def test_a_dead_agents_status_is_not_the_one_of_the_agent_that_starts(vm, capsys):
    vm.status.write_text(fresh(GONE))
    with files.lock(vm.lock):
        code, said = ask(vm, capsys)
        assert (code, said.out.split(":")[0]) == (4, "unknown")
        vm.status.write_text(fresh(process.own()))
        assert ask(vm, capsys)[0] == 0


@pytest.mark.parametrize(("writer", "expected"), [(process.own(), 0), (GONE, 3), (None, 3)])
def test_whoever_may_not_open_the_lock_believes_the_process_that_wrote(
    vm, capsys, monkeypatch, writer, expected
):
    monkeypatch.setattr(files, "held", lambda _: None)
    vm.status.write_text(fresh(writer))
    assert ask(vm, capsys)[0] == expected


def test_a_hidden_process_is_unknown_and_not_dead(vm, capsys, monkeypatch):
    def hidden(_):
        raise PermissionError

    monkeypatch.setattr(files, "held", lambda _: None)
    monkeypatch.setattr(process, "lives", hidden)
    vm.status.write_text(fresh(GONE))
    code, said = ask(vm, capsys)
    assert code == 4
    assert "Run the command as root." in said.err


# Before the agent runs: systemd's word


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ("ActiveState=activating\nSubState=start\nJob=0\n", True),
        ("ActiveState=inactive\nSubState=dead\nJob=213\n", True),
        ("ActiveState=failed\nSubState=failed\nJob=213\n", True),
        ("ActiveState=activating\nSubState=auto-restart\nJob=0\n", False),
        ("ActiveState=inactive\nSubState=dead\nJob=0\n", False),
        ("ActiveState=inactive\nSubState=dead\n", False),
        ("ActiveState=active\nSubState=running\nJob=213\n", False),
        ("ActiveState=deactivating\nSubState=stop-sigterm\nJob=213\n", False),
        ("System has not been booted with systemd as init system (PID 1).\n", False),
        ("", False),
    ],
)
def test_systemd_starts_the_unit_or_holds_it_back(properties, expected):
    assert model_status.being_started(properties) is expected


@pytest.mark.parametrize("document", [None, {"schema": 1, "state": "ready"}])
def test_a_unit_that_is_being_started_is_not_said_to_be_dead(document):
    code = model_status.exit_code(document, running=False, now=NOW, being_started=True)
    shown = status_text.render(document, running=False, now=NOW, being_started=True)
    assert (code, shown.splitlines()[0].partition(":")[0]) == (5, "being started")
    assert "systemctl start" not in shown
    painted = status_text.render(document, running=False, now=NOW, being_started=True, color=True)
    assert painted.startswith("\x1b[33mbeing started\x1b[0m:")
    assert model_status.exit_code(document, running=True, now=NOW, being_started=True) != 3
