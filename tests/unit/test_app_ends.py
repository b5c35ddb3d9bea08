"""How an app's process ended, from the file that its launcher wrote where apps may write."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.runs import outcome
from flower_agent.runs.outcome import CLIENTAPP, SERVERAPP, AppEnd

WELL = AppEnd(run="7", program=CLIENTAPP, began_at=1.0, ended_at=2.0, status=0, own=True)


def end(**changes):
    return dataclasses.replace(WELL, **changes)


def written(found):
    return json.dumps(dataclasses.asdict(found)).encode()


def test_what_the_launcher_writes_is_read():
    died = end(status=None, signal=9, oom=True, own=False, error="X", text="y", peak_bytes=5)
    assert outcome.parse(written(died)) == died
    begun = AppEnd(run="7", program=SERVERAPP, began_at=1.0)
    assert outcome.parse(b'{"run": "7", "program": "flwr-serverapp", "began_at": 1}') == begun


NAMES = st.sampled_from(["run", "program", "began_at", "ended_at", "status", "text"])
PLAIN = st.none() | st.integers() | st.floats() | st.text()
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_a_value_error_or_bounded(data):
    try:
        found = outcome.parse(data)
    except ValueError:
        return
    assert len(repr(found)) < 4000


@pytest.mark.parametrize("data", [b"[" * 50_000, b'{"run":' * 20_000, b"\xff" * 9000])
def test_a_deep_or_broken_file_is_refused(data):
    with pytest.raises(ValueError, match="no app's end"):
        outcome.parse(data)


def test_control_characters_and_foreign_class_names_are_dropped():
    found = outcome.parse(written(end(error="Bad\x1b[2J", text="a\x1b]52;c;x\x07b", reason="\n")))
    assert (found.error, found.reason) == ("", "")
    assert found.text.isprintable()


@pytest.mark.parametrize(
    ("found", "died", "words"),
    [
        (end(), False, "ended with status 0"),
        (end(status=1, error="ValueError"), False, "raised ValueError"),
        (end(status=7, own=False), True, "ended with status 7"),
        (end(status=None, signal=9, own=False), True, "was killed (SIGKILL)"),
        (end(status=None, signal=7, own=False), True, "was killed (SIGBUS)"),
        (end(status=None, signal=64, own=False), True, "was killed (signal 64)"),
        (end(signal=9, oom=True, own=False), True, "was killed: the memory limit was reached"),
        (end(status=1, own=False, error="IndexError"), True, "raised IndexError"),
        (end(status=1, error="LimitReachedError", reason="x"), False, "exceeded its limits"),
    ],
)
def test_an_end_reads_without_its_data(found, died, words):
    assert (found.died, found.how()) == (died, words)


def test_onegate_is_told_the_class_and_the_run_alone():
    canary = end(status=1, error="ValueError", text="patient 4711")
    assert canary.short() == "ValueError; run 7"
    assert end(status=7, own=False).short() == "ended with status 7; run 7"
    oom = end(signal=9, oom=True, own=False)
    assert oom.short() == "was killed as the memory limit was reached; run 7"


def test_a_clientapp_that_runs_is_no_trouble():
    assert outcome.trouble((AppEnd(run="7", program=CLIENTAPP, began_at=9.0),)) is None
    assert outcome.trouble(()) is None


def test_the_newest_bad_end_is_the_trouble_until_one_of_its_run_answers():
    bad, worse = end(ended_at=3.0, error="A"), end(ended_at=4.0, own=False, status=7)
    assert outcome.trouble((worse, WELL, bad)) == worse
    assert outcome.trouble((worse, bad, end(ended_at=5.0))) is None
    assert outcome.trouble((worse, end(run="8", ended_at=5.0))) == worse  # it ran beside
    assert outcome.trouble((worse, end(run="8", began_at=4.5, ended_at=5.0))) is None
    recovered = end(run="9", ended_at=6.0)
    assert outcome.trouble((worse, end(run="9", ended_at=5.0, error="B"), recovered)) == worse


@pytest.mark.parametrize(
    "changes",
    [
        {"run": 'x"READY=NO patient-4711'},
        {"run": "../7"},
        {"program": "sh"},
        {"began_at": float("nan")},
        {"began_at": -1e300},
        {"ended_at": float("inf")},
        {"ended_at": "soon"},
    ],
)
def test_what_no_launcher_writes_is_refused(changes):
    with pytest.raises(ValueError, match="no app's end"):
        outcome.parse(json.dumps({**dataclasses.asdict(WELL), **changes}).encode())


def test_a_serverapps_end_is_no_clients_trouble():
    assert outcome.trouble((end(program=SERVERAPP, own=False, signal=9),)) is None


def test_the_last_process_of_a_run_counts():
    old, new = end(began_at=1.0), end(began_at=5.0)
    assert outcome.last((new, old, end(run="8", began_at=9.0)), "7", CLIENTAPP) == new
    assert outcome.last((new,), "7", SERVERAPP) is None
