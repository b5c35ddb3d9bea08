"""The record's entries, lines and chain: what verifies, and what is named where it does not."""

import dataclasses
import datetime
import hashlib
import json

import pytest

from flower_agent.model import record
from flower_agent.model.record import GENESIS, Entry, Event, Head, Held, Result

AT = datetime.datetime(2026, 12, 1, 10, 31, 5, 123456, datetime.UTC)


def chain(*entries, head=GENESIS):
    """Return the lines of entries, as `walk` takes them, and the head."""
    rows = []
    for number, entry in enumerate(entries, 1):
        data, head = record.render(entry, AT, head)
        rows.append(Held(f"audit.jsonl line {number}", data))
    return rows, head


def five():
    return chain(*(Entry(what=Event.RUN_ENDED, run=str(n), message=f"run {n}") for n in range(5)))


def test_a_line_is_json_whose_hash_anybody_can_check():
    entry = Entry(
        what=Event.RUN_SUBMITTED, who="local:root", run="7", app="ab" * 32, message="digits 1.0.0"
    )
    data, head = record.render(entry, AT, Head(4, "c" * 64))
    found = json.loads(data)
    assert found == {
        "schema": 1, "seq": 5, "time": "2026-12-01T10:31:05.123Z", "what": "run.submitted",
        "run": "7", "who": "local:root", "result": "done", "app": "ab" * 32,
        "message": "digits 1.0.0", "previous": "c" * 64, "hash": head.hash,
    }  # fmt: skip
    body = data.partition(b',"hash":')[0]
    assert hashlib.sha256(body).hexdigest() == head.hash
    assert head.number == 5


def test_a_whole_chain_verifies_also_against_its_head_and_a_hash_from_the_journal():
    rows, head = five()
    assert record.walk(rows) == record.Walked(5, head)
    known = json.loads(rows[2].data)["hash"]
    assert record.walk(rows, head, known).fault == ""
    assert record.walk(rows, Head(3, known)).fault == ""


def test_nothing_is_a_record_too():
    assert record.walk([]) == record.Walked(0, GENESIS)


def test_a_changed_line_is_named():
    rows, head = five()
    rows[2] = dataclasses.replace(rows[2], data=rows[2].data.replace(b"run 2", b"run 9"))
    found = record.walk(rows, head)
    assert found.fault == "audit.jsonl line 3 was changed: its hash is not that of its text"
    assert found.entries == 2


def test_a_changed_line_with_a_new_hash_breaks_the_chain_at_the_next():
    rows, head = five()
    other, _ = record.render(
        Entry(what=Event.RUN_ENDED, run="9"), AT, record.parse(rows[1].data[:-1]).head
    )
    rows[2] = dataclasses.replace(rows[2], data=other)
    assert record.walk(rows, head).fault == (
        "audit.jsonl line 4 does not follow the line before it"
    )


def test_removed_lines_are_named_by_their_numbers():
    rows, head = five()
    assert record.walk([*rows[:2], *rows[3:]], head).fault == (
        "entry 3 was removed before audit.jsonl line 4"
    )
    assert record.walk([rows[0], rows[4]], head).fault == (
        "entries 2 to 4 were removed before audit.jsonl line 5"
    )


def test_lines_that_change_places_are_named():
    rows, head = five()
    assert "was removed before audit.jsonl line 4" in (
        record.walk([*rows[:2], rows[3], rows[2], rows[4]], head).fault
    )


def test_entries_removed_at_the_end_are_missed_by_the_head():
    rows, head = five()
    assert record.walk(rows[:3]).fault == ""
    assert record.walk(rows[:3], head).fault == "entries 4 to 5 were removed from the end"
    assert record.walk([], head).fault == "entries 1 to 5 were removed from the end"


def test_entries_removed_at_the_beginning_are_missed():
    rows, head = five()
    assert record.walk(rows[2:], head).fault == (
        "entries 1 to 2 were removed: the record begins with 3"
    )


def test_entries_that_the_agent_removed_itself_are_not_missed():
    rotated = Entry(what=Event.RECORD_ROTATED, begins=3)
    rows, head = chain(*[Entry(what=Event.RUN_ENDED)] * 5, rotated)
    assert record.walk(rows[2:], head).fault == ""
    assert record.walk(rows, head).fault == ""
    assert record.walk(rows[3:], head).fault == "entry 3 was removed: the record begins with 4"


def test_a_chain_that_was_made_anew_is_another_than_the_one_in_the_journal():
    rows, head = five()
    new, new_head = chain(*[Entry(what=Event.RUN_ENDED, message="nothing happened")] * 5)
    assert record.walk(new, new_head, head.hash).fault == f"no entry has the hash {head.hash}"
    fault = record.walk(new, head).fault
    assert fault == "audit.jsonl line 5 was replaced: the agent wrote another entry 5"
    assert record.walk(rows, head, head.hash).fault == ""


def test_a_cut_line_is_named():
    rows, head = five()
    rows[4] = dataclasses.replace(rows[4], data=rows[4].data[:40])
    assert record.walk(rows, head).fault == "audit.jsonl line 5 was cut: it has no end"


@pytest.mark.parametrize(
    "data", [b"\n", b"{}\n", b"\0" * 200 + b"\n", b"[" * 40_000 + b"\n", b"x" * 100 + b"\n"]
)
def test_what_is_no_entry_is_named(data):
    assert record.walk([Held("audit.jsonl line 1", data)]).fault == (
        "audit.jsonl line 1 is no entry"
    )


def test_a_line_of_valid_hash_and_nonsense_is_no_entry():
    body = b'{"seq":true,"previous":"x"'
    row = body + f',"hash":"{hashlib.sha256(body).hexdigest()}"}}\n'.encode()
    assert record.walk([Held("a line 1", row)]).fault == "a line 1 is no entry"


def test_foreign_text_is_bounded_cleaned_and_on_one_line():
    entry = Entry(
        what=Event.RUN_ENDED,
        who="local:\x1b[2Jeve\n",
        name="a" * 5000,
        message='x","who":"local:root\n{"schema":1}\r\u202e\ud800' + "b" * 5000,
    )
    data, _ = record.render(entry, AT, GENESIS)
    assert len(data) < 2000
    assert data.count(b"\n") == 1
    found = json.loads(data)
    assert found["who"] == "local:eve"
    assert found["message"].startswith('x","who":"local:root {"schema":1}')
    assert "\u202e" not in found["message"]


def test_the_largest_entry_fits_into_a_line():
    text = "\U0001f338" * 10_000
    entry = Entry(
        what=Event.RUN_ENDED, who=text, run=text, app=text, node=text, name=text, key=text,
        message=text,
    )  # fmt: skip
    data, _ = record.render(entry, AT, GENESIS)
    assert record.walk([Held("a line 1", data)]).fault == ""
    assert len(data) < record.LINE_MAX


def test_a_mark_finds_its_event_of_its_run_and_no_text_about_it():
    mark = record.mark(Event.RUN_STARTED, "12")
    assert mark in record.render(Entry(what=Event.RUN_STARTED, run="12"), AT, GENESIS)[0]
    assert mark not in record.render(Entry(what=Event.RUN_STARTED, run="123"), AT, GENESIS)[0]
    told = Entry(what=Event.RUN_ENDED, run="12", message='"what":"run.started","run":"12"')
    assert mark not in record.render(told, AT, GENESIS)[0]


REFUSED = Entry(what=Event.KEY_REGISTERED, result=Result.REFUSED, key="SHA256:x", message="no")


def test_equal_refused_calls_are_added_up_each_minute():
    found = record.Refusals()
    assert found.take(REFUSED, 0.0) == REFUSED
    assert [found.take(REFUSED, float(n)) for n in range(1, 60)] == [None] * 59
    assert list(found.due(59.0)) == []
    assert [entry.count for entry in found.due(60.0)] == [59]
    assert found.take(REFUSED, 61.0) is None
    assert [entry.count for entry in found.due(120.0)] == [1]
    assert list(found.due(180.0)) == []
    assert found.take(REFUSED, 181.0) == REFUSED


def test_what_differs_or_is_not_refused_is_not_added_up():
    found = record.Refusals()
    done = dataclasses.replace(REFUSED, result=Result.DONE)
    other = dataclasses.replace(REFUSED, key="SHA256:y")
    assert [found.take(each, 0.0) for each in (REFUSED, other, done, done)] == [
        REFUSED, other, done, done,
    ]  # fmt: skip


def test_very_many_different_refused_calls_become_one_kind():
    found = record.Refusals()
    taken = [
        found.take(dataclasses.replace(REFUSED, key=str(n)), 0.0)
        for n in range(10 * record.MOST_KINDS)
    ]
    written = [entry for entry in taken if entry is not None]
    assert len(written) == record.MOST_KINDS + 1
    assert written[-1].message == "other refused calls"
    assert [entry.count for entry in found.due(60.0)] == [9 * record.MOST_KINDS - 1]


def test_an_entry_is_one_line_for_a_person():
    entry = Entry(
        what=Event.KEY_REGISTERED, result=Result.REFUSED, node="7", name="VM 42", key="SHA256:x",
        message="no", count=3,
    )  # fmt: skip
    data, _ = record.render(entry, AT, GENESIS)
    assert record.described(record.parse(data[:-1])) == (
        "2026-12-01T10:31:05.123Z  agent           key.registered refused  "
        "node 7; VM 42; key SHA256:x; no; 3 times"
    )
