"""What the gateway may ask: a taken-over one gets no further than its two questions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.agent import gateway_requests
from flower_agent.agent.gateway_requests import (
    Allowance,
    GatewayEvent,
    OutputsAsked,
    RecordAsked,
    parse,
)


def asked(**document):
    return parse(json.dumps(document).encode())


def recorded(**event):
    (found,) = asked(ask="record", events=[event]).events
    return found


def test_the_outputs_of_a_run():
    assert asked(ask="outputs", run="1234567890123456789") == OutputsAsked("1234567890123456789")


@pytest.mark.parametrize(
    "run", ["", "..", "../1", "1/..", "1\n", "-1", "1" * 21, "\u0661", "live", 7, None, ["7"], True]
)
def test_a_run_is_a_number_and_no_path(run):
    with pytest.raises(ValueError, match=r"^want the id of a run$"):
        asked(ask="outputs", run=run)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"outputs",
        b"[]",
        b"7",
        b"{",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"ask": "shell", "run": "7"}',
        b'{"ask": ["outputs"], "run": "7"}',
        b'{"ASK": "outputs", "run": "7"}',
        b'{"ask": "record"}',
        b'{"ask": "record", "events": {}}',
        b'{"ask": "record", "events": [], "more": 1}',
    ],
)
def test_anything_else_is_refused(line):
    with pytest.raises(ValueError, match=r"^want "):
        parse(line)


def test_an_ask_with_more_in_it_is_another_ask():
    with pytest.raises(ValueError, match="want"):
        asked(ask="outputs", run="7", place="/etc")


def test_an_event_has_a_name_and_plain_fields():
    found = recorded(event="gateway.login", account="ada", n=3, ok=True, role=None, s=0.5)
    assert found == GatewayEvent(
        "gateway.login", {"account": "ada", "n": 3, "ok": True, "role": None, "s": 0.5}
    )
    assert recorded(event="gateway.start-run").name == "gateway.start-run"
    assert asked(ask="record", events=[]) == RecordAsked(())


@pytest.mark.parametrize(
    "name", ["", "login", "agent.start", "gateway.", "gateway.A", "gateway.x y", "gateway.x\n", 7]
)
def test_an_event_of_another_area_is_refused(name):
    with pytest.raises(ValueError, match=r"gateway\.login"):
        recorded(event=name)


@pytest.mark.parametrize(
    "fields",
    [
        {"exc_info": True},
        {"level": "error"},
        {"timestamp": "1970"},
        {"Bad": 1},
        {"a-b": 1},
        {"": 1},
        {"x": {}},
        {"x": [1]},
        {"x": 1 << 70},
        {"x": float("inf")},
        {"x": float("nan")},
        {f"f{number}": 1 for number in range(gateway_requests.FIELDS + 1)},
    ],
)
def test_fields_have_a_form_and_are_not_the_logs_own(fields):
    with pytest.raises(ValueError, match=r"^want "):
        recorded(event="gateway.login", **fields)


def test_what_a_person_typed_is_short_and_moves_no_terminal():
    found = recorded(event="gateway.login", account="\x1b]0;x\x07evil\nline\u202e" + "x" * 999)
    assert "\x1b" not in found.fields["account"]
    assert "\n" not in found.fields["account"]
    assert len(found.fields["account"]) <= gateway_requests.TEXT + 5


def test_there_is_a_most_of_events_in_one_ask():
    event = {"event": "gateway.login"}
    assert len(asked(ask="record", events=[event] * gateway_requests.EVENTS).events) == 100
    with pytest.raises(ValueError, match="at most 100"):
        asked(ask="record", events=[event] * (gateway_requests.EVENTS + 1))


def test_a_flood_of_events_is_refused_and_passes():
    allowance = Allowance(0.0)
    assert all(allowance.take(100, 1.0) for _ in range(6))
    assert not allowance.take(1, 1.0)
    assert not allowance.take(100, 2.0)
    assert allowance.take(100, 12.0)
    assert not allowance.take(700, 1e9), "never more than the most"
    assert not Allowance(5.0).take(601, 0.0), "a clock does not run backwards, and if it did"


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
))  # fmt: skip
def test_no_document_raises_anything_else(document):
    for whole in (document, {"ask": "record", "events": document}, {"ask": "outputs"}):
        try:
            parse(json.dumps(whole).encode())
        except ValueError as error:
            assert str(error).startswith("want ")  # noqa: PT017
