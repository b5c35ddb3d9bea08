"""What ``flower-agent status`` prints and exits with."""

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from flower_agent import status
from flower_agent.errors import Finding, warning
from flower_agent.status import Fact, Mark, Status

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def ago(**span):
    return NOW - datetime.timedelta(**span)


def written(**differences):
    """Return a status as it is read back from its file."""
    values = {
        "state": "ready",
        "since": ago(hours=3),
        "phase": None,
        "phase_since": ago(hours=3),
        "written_at": ago(seconds=5),
        "agent_version": "0.1.0",
        "role": "superlink",
        "version": "1.25.0",
    }
    return json.loads(json.dumps(status.document(Status(**values | differences))))


def text(document, *, running=True):
    shown = status.render(document, running=running, now=NOW)
    assert not shown.endswith("\n")
    for line in shown.splitlines():
        assert len(line) <= 80 or len(line.split()) <= 2, line
        assert line == line.rstrip()
    return shown


def code(document, *, running=True):
    return status.exit_code(document, running=running, now=NOW)


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
    codes = [*status.EXIT_CODES.values(), status.NOT_RUNNING, status.UNKNOWN, status.TIMED_OUT]
    assert sorted(codes) == [0, 1, 2, 3, 4, 5, 124]


# Text


def test_a_ready_superlink():
    document = written(
        facts=(
            Fact("context", Mark.OK, "VM 28"),
            Fact("docker", Mark.OK, "answers"),
            Fact("tls", Mark.OK, "certificate until 2027-03-01"),
            Fact("gpu", Mark.OFF, "not used (GPU_ENABLED=NO); no NVIDIA GPU found"),
        ),
        containers=(
            {"name": "flower-superlink", "status": "running", "restarts": 0},
            {"name": "flower-superexec", "status": "running", "restarts": 2},
        ),
        commands=(
            ("reach the Control API", "ssh -N -L 9093:127.0.0.1:9093 root@10.0.0.5"),
            ("put into config.toml", '[superlink.x]\naddress = "127.0.0.1:9093"'),
        ),
    )
    assert (
        text(document)
        == """\
ready for 3 hours (SuperLink, Flower 1.25.0)

  context     ok       VM 28
  docker      ok       answers
  tls         ok       certificate until 2027-03-01
  gpu         off      not used (GPU_ENABLED=NO); no NVIDIA GPU found
  container   ok       flower-superlink running
  container   ok       flower-superexec running, restarted 2x

  # reach the Control API
  ssh -N -L 9093:127.0.0.1:9093 root@10.0.0.5

  # put into config.toml
  [superlink.x]
  address = "127.0.0.1:9093\""""
    )


def test_a_starting_supernode():
    document = written(
        state="starting",
        since=ago(seconds=40),
        phase="discover",
        role="supernode",
        error=Finding(
            "discover.waiting",
            "no VM of the service publishes FLOWER_ROLE and FLOWER_ENDPOINT yet",
        ),
        facts=(
            Fact(
                "image",
                Mark.WAITING,
                "pulls flwr/supernode:1.25.0-py3.13-ubuntu24.04: 12 MB of 340 MB",
            ),
        ),
    )
    assert (
        text(document)
        == """\
starting for 40 s, phase discover (SuperNode, Flower 1.25.0)
  cause:   discover.waiting: no VM of the service publishes FLOWER_ROLE and
           FLOWER_ENDPOINT yet
  fix:     Look at the SuperLink's VM: flower-agent status

  image       waiting  pulls flwr/supernode:1.25.0-py3.13-ubuntu24.04: 12 MB of
                       340 MB"""
    )


def test_a_context_that_was_refused():
    first = Finding("setting.missing", "FLOWER_ROLE is not set")
    second = Finding("setting.invalid", "FL_NUM_ROUNDS is 'x': want a whole number")
    document = written(
        state="failed",
        since=ago(minutes=5),
        phase="context",
        role=None,
        version=None,
        error=first,
        errors=(first, second),
        warnings=(warning("context.report_ready", "REPORT_READY is set"),),
        facts=(Fact("context", Mark.BAD, "2 findings"), Fact("onegate", Mark.OFF, "")),
    )
    assert (
        text(document)
        == """\
failed for 5 min, phase context (no role yet)
  cause:   setting.missing: FLOWER_ROLE is not set
  fix:     Add it to the CONTEXT: onevm updateconf VMID FILE -a
  cause:   setting.invalid: FL_NUM_ROUNDS is 'x': want a whole number
  fix:     Set it to the wanted form: onevm updateconf VMID FILE -a
  warning: context.report_ready: REPORT_READY is set
  fix:     Take REPORT_READY out of the CONTEXT; the agent reports READY itself.

  context     bad      2 findings
  onegate     off"""
    )


def test_a_degraded_superexec():
    document = written(
        state="degraded",
        since=ago(days=2, hours=1),
        phase="container",
        role="superexec",
        error=Finding("container.crash_loop", "flower-superexec ended, 4 times: out of memory"),
        containers=({"name": "flower-superexec", "status": "exited", "restarts": 4},),
    )
    assert (
        text(document)
        == """\
degraded for 2 days, phase container (SuperExec, Flower 1.25.0)
  cause:   container.crash_loop: flower-superexec ended, 4 times: out of memory
  fix:     Read its last lines: flower-agent logs

  container   bad      flower-superexec exited, restarted 4x"""
    )


@pytest.mark.parametrize("document", [None, {"schema": 7}])
def test_an_agent_that_never_ran(document):
    assert text(document, running=False) == (
        "not running: no flower-agent runs here\n  fix: systemctl start flower-agent"
    )


def test_an_agent_that_ended_leaves_its_last_word():
    document = written(version="1.25.0-py3.13-ubuntu24.04")
    assert text(document, running=False).splitlines()[:2] == [
        "not running: no agent runs here; its last word was: ready for 3 hours",
        "  (SuperLink, Flower 1.25.0-py3.13-ubuntu24.04)",
    ]


def test_an_agent_that_fell_silent():
    document = written(written_at=ago(minutes=7))
    assert text(document).splitlines()[:2] == [
        "unknown: no word for 7 min; the last was: ready for 3 hours (SuperLink, Flower",
        "  1.25.0)",
    ]


def test_an_agent_that_has_not_spoken_yet():
    assert text(None) == "unknown: the agent runs but has not written a status yet"


def test_a_status_of_another_agent_is_not_guessed_at():
    document = {"schema": 2, "state": "ready", "error": "text", "facts": 7}
    assert text(document) == (
        "unknown: the status has schema 2, this program reads 1\n"
        "  fix: use the flower-agent command of the agent that runs"
    )


def test_a_word_wider_than_the_screen_stays_whole():
    reference = "registry.example.org:5000/mirror/of/flwr/superlink:1.25.0-py3.13-ubuntu24.04"
    document = written(
        facts=(Fact("image", Mark.OK, f"{reference}, flwr/superexec:1.25.0"),),
        error=Finding("state.unwritable", f"/{'x' * 90} is full"),
    )
    shown = status.render(document, running=True, now=NOW)
    assert f"{reference},\n" in shown
    assert f"/{'x' * 90}\n" in shown


def test_nothing_that_others_said_reaches_the_terminal_as_it_is():
    evil = "\x1b[2Jgone\x9b31m\r\x00"
    shown = text(
        written(
            error=Finding("container.exited", evil),
            facts=(Fact("peer", Mark.BAD, evil),),
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
    st.lists(st.builds(Fact, st.just("image"), st.sampled_from(Mark), WORDS), max_size=3),
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
    for line in status.render(document, running=running, now=NOW).splitlines():
        assert len(line) <= 80 or len(line.split()) <= 3, line


# The file


def test_the_keys_of_the_document_are_the_contract():
    assert set(written()) == {
        *("schema", "state", "since", "phase", "phase_since", "written_at", "agent_version"),
        *("name", "role", "version", "vmid", "error", "errors", "warnings", "facts"),
        *("containers", "endpoint", "tls", "ca_fingerprint", "nodes", "node_id", "partition"),
        "commands",
    }


def test_a_finding_is_told_with_code_words_and_remedy():
    found = written(error=Finding("docker.down", "no answer"))["error"]
    assert found == {
        "code": "docker.down",
        "message": "no answer",
        "hint": "systemctl status docker; journalctl -u docker",
        "severity": "error",
    }


def test_a_fact_is_told_with_its_mark():
    found = written(facts=(Fact("docker", Mark.OK, "answers"),))["facts"]
    assert found == [{"name": "docker", "mark": "ok", "detail": "answers"}]


def test_times_are_utc_whatever_the_zone():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert status.stamp(NOW.astimezone(zone)) == "2026-03-01T12:00:00Z"
    assert written()["written_at"] == "2026-03-01T11:59:55Z"


def test_the_schema_is_told():
    assert written()["schema"] == 1
