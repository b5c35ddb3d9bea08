"""Lines of several logs as one story."""

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.commands import logs
from flower_agent.commands.logs import Line


def at(second, micros=0):
    return datetime.datetime(2026, 3, 1, 12, 0, second, micros, datetime.UTC)


def journal(message):
    micros = at(5).timestamp() * 1_000_000
    return json.dumps({"__REALTIME_TIMESTAMP": str(int(micros)), "MESSAGE": message})


def texts(lines):
    return [line.text for line in lines]


@pytest.mark.parametrize(
    ("line", "when", "text"),
    [
        ("2026-03-01T12:00:01.123456789Z hello", at(1, 123456), "hello"),
        ("2026-03-01T12:00:01Z hello", at(1), "hello"),
        ("2026-03-01T14:00:01.5+02:00   hello", at(1, 500000), "  hello"),
        ("2026-03-01T12:00:01Z", at(1), ""),
        ("no time at all", None, "no time at all"),
    ],
)
def test_dockers_time_stands_in_front(line, when, text):
    assert list(logs.of_container("x", line)) == [Line(when, "x", text)]


def test_an_event_is_told_with_its_fields_and_its_own_time():
    event = {"name": "flower-superlink", "cause": "settings changed", "event": "container.stop",
             "level": "info", "timestamp": "2026-03-01T12:00:01.5Z"}  # fmt: skip
    expected = Line(at(1, 500000), "agent", 'container.stop name=flower-superlink'
                    ' cause="settings changed"')  # fmt: skip
    for text in (json.dumps(event), journal(json.dumps(event))):
        assert list(logs.of_agent(text)) == [expected]


def test_what_is_worse_than_a_change_says_so():
    event = {"event": "state.failed", "level": "error", "code": "x.y", "after_s": 1.5, "none": ""}
    assert texts(logs.of_agent(json.dumps(event))) == [
        'ERROR state.failed code=x.y after_s=1.5 none=""'
    ]


def test_a_traceback_stays_behind_its_event():
    event = {"event": "agent.bug", "level": "error", "exception": "Traceback\n  File"}
    lines = [*logs.of_agent(journal(json.dumps(event))), Line(at(9), "x", "later")]
    assert texts(logs.merged(lines)) == ["ERROR agent.bug", "  Traceback", "    File", "later"]


@pytest.mark.parametrize("text", ["Started the unit.", "{", "[1]", "7"])
def test_what_is_no_event_is_told_as_it_is(text):
    assert list(logs.of_agent(journal(text))) == [Line(at(5), "agent", text)]
    assert list(logs.of_agent(text)) == [Line(None, "agent", text)]


@pytest.mark.parametrize("micros", ["soon", None, "1" * 40])
def test_a_journal_whose_time_is_nonsense_is_told_without(micros):
    line = json.dumps({"__REALTIME_TIMESTAMP": micros, "MESSAGE": "x"})
    assert list(logs.of_agent(line)) == [Line(None, "agent", "x")]


def test_a_binary_message_of_the_journal_is_told_somehow():
    assert len(list(logs.of_agent(json.dumps({"MESSAGE": [104, 105]})))) == 1


@given(st.lists(st.tuples(st.integers(0, 59), st.sampled_from("abc"))))
def test_a_story_is_by_time_and_keeps_each_writers_order(rows):
    lines = [Line(at(second), who, str(number)) for number, (second, who) in enumerate(rows)]
    found = logs.merged(lines)
    assert sorted(found, key=lambda line: line.at) == found
    assert sorted(lines, key=lambda line: (line.at, int(line.text))) == found


def test_a_line_is_shown_with_time_and_writer_and_without_colors():
    line = Line(at(1, 234567), "flower-superlink", "\x1b[92mINFO\x1b[0m : ready")
    assert logs.shown(line) == "2026-03-01T12:00:01.234Z flower-superlink | INFO : ready"
    assert "\x1b[92m" in logs.shown(line, color=True)
    assert logs.shown(Line(None, "agent", "x")) == f"{'':<24} agent | x"
    assert json.loads(logs.json_line(line))["text"] == "INFO : ready"


def test_what_a_terminal_gets_is_colours_at_most():
    said = "\x1b[31mred\x1b[0m \x1b]52;c;ZXZpbA==\x07\x1b[2J\u202etold"
    stamped = f"2026-03-01T12:00:01Z {said}\n"
    (line,) = logs.of_container("x", stamped)
    assert logs.shown(line, color=True).endswith("x | \x1b[31mred\x1b[0m told")
    assert logs.shown(line).endswith("x | red told")
    (own,) = logs.of_agent(json.dumps({"event": "run.says", "text": said.replace(" ", "")}))
    assert "\x1b]" not in logs.shown(own, color=True)
    assert json.loads(logs.json_line(own))["text"] == "run.says text=redtold"


def test_a_line_of_an_app_cannot_pass_for_another_containers():
    text = "2026-03-01T12:00:01Z app\x852026-03-01T12:00:01Z forged\n"
    assert len(list(logs.of_container("x", text))) == 1


OWN = logs.LineFilter(polls=False, hosts=frozenset({"127.0.0.1", "fd00::2"}))
ACCESS = '2026-11-30T16:30:22.610Z INFO [uvicorn.access] {} - "POST /v1/control/{} HTTP/1.1" {}'
FLEET = ACCESS.replace("control", "fleet")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("\x1b[92mINFO \x1b[0m:      ControlServicer.ListNodes", True),
        ("INFO :      ControlServicer.ListRuns", True),
        ("INFO :      ControlServicer.List", True),
        ("INFO :      ControlServicer.StreamLogs", True),
        ("INFO :      ControlServicer.ListFederations", False),
        ("INFO :      ControlServicer.StartRun", False),
        ("ERROR :     ControlServicer.ListNodes", False),
        (ACCESS.format("127.0.0.1:54080", "list-nodes", 200), True),
        (ACCESS.format("[fd00::2]:54080", "list-runs", 200), True),
        (ACCESS.format("10.9.9.9:54080", "list-nodes", 200), False),
        (ACCESS.format("127.0.0.1:54080", "start-run", 200), False),
        (ACCESS.format("127.0.0.1:54080", "list-nodes", 401), False),
        (FLEET.format("127.0.0.1:54080", "agent-probe", 404), True),
        (FLEET.replace("fleet", "runtime").format("127.0.0.1:5", "agent-probe", 404), True),
        (FLEET.format("127.0.0.1:54080", "pull-messages", 401), False),
    ],
)
def test_only_what_the_agent_asks_all_the_time_is_hidden(text, hidden):
    lines = [Line(at(1), "flower-superlink", text)]
    assert (list(logs.matching(lines, OWN)) == []) is hidden
    assert list(logs.matching(lines, logs.LineFilter())) == lines
    own = [Line(at(1), logs.AGENT, text)]
    assert list(logs.matching(own, OWN)) == own


def test_a_line_without_a_time_has_that_of_the_one_before_it():
    lines = [Line(at(1), "x", "old"), Line(None, "x", "  its rest")]
    lines += [Line(at(5), "x", "new"), Line(None, "x", "  its rest")]
    assert list(logs.matching(lines, logs.LineFilter(since=at(4)))) == lines[2:]
