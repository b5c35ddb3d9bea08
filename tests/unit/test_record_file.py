"""The record on disk: appended by several, rotated, repaired, and what a full disk does."""

import datetime
import errno
import fcntl
import json
import os

import pytest

from flower_agent import files, record_file
from flower_agent.model import record
from flower_agent.model.record import Entry, Event, Result
from flower_agent.record_file import Record

AT = datetime.datetime(2026, 12, 1, 10, 31, tzinfo=datetime.UTC)


class Clock:
    def __init__(self):
        self.now = AT

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "audit.jsonl"


def entry(number, **more):
    return Entry(what=Event.RUN_ENDED, run=str(number), **more)


def write(kept, *entries):
    kept.append(*entries)
    assert kept.flush() is None


def read(path):
    with record_file.reading(path) as (lines, _):
        return [json.loads(held.data) for held in lines]


def fault(path, known=""):
    with record_file.reading(path) as (lines, head):
        return record.walk(lines, head, known).fault


def test_entries_are_appended_by_agent_and_commands_in_one_chain(path):
    agent, command = Record(path), Record(path)
    write(agent, entry(1), entry(2))
    write(command, entry(3, who="local:root"))
    write(agent, entry(4))
    assert [found["seq"] for found in read(path)] == [1, 2, 3, 4]
    assert [found["who"] for found in read(path)] == ["agent", "agent", "local:root", "agent"]
    assert fault(path) == ""
    assert record_file.head_of(path) == agent.head
    assert fault(path, agent.head.hash) == ""


def test_only_root_reads_the_files(path):
    kept = Record(path, file_bytes=1)
    write(kept, entry(1))
    write(kept, entry(2))
    modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert sorted(modes) == [
        "audit-000000000001.jsonl", "audit.head.json", "audit.jsonl", "audit.lock",
    ]  # fmt: skip


def test_nothing_to_write_touches_no_disk(path):
    assert Record(path).flush() is None
    assert not path.parent.exists()


def test_a_torn_last_line_is_kept_aside_and_said(path):
    write(Record(path), entry(1), entry(2))
    with path.open("ab") as file:
        file.write(b'{"schema":1,"seq":3,"ti')
    assert fault(path) == "audit.jsonl line 3 was cut: it has no end"
    kept = Record(path)
    write(kept, entry(3))
    assert (path.parent / "audit.torn.txt").read_bytes() == b'{"schema":1,"seq":3,"ti\n'
    found = read(path)
    assert [each["what"] for each in found[2:]] == ["record.recovered", "run.ended"]
    assert found[2]["message"] == "an entry of 23 bytes without its end is kept in audit.torn.txt"
    assert kept.repaired == found[2]["message"]
    assert fault(path) == ""


def test_a_torn_line_is_said_though_the_disk_is_full_after_its_repair(path, monkeypatch):
    write(Record(path), entry(1))
    with path.open("ab") as file:
        file.write(b"torn")
    kept = Record(path)
    kept.append(entry(2), now=0.0)
    with monkeypatch.context() as patched:
        full(patched, 0)
        assert kept.flush(0.0) is not None
    assert kept.flush(record_file.RETRY_S) is None
    assert [each["what"] for each in read(path)] == [
        "run.ended", "record.recovered", "run.ended",
    ]  # fmt: skip


def test_a_rotated_file_is_never_replaced(path):
    write(Record(path), entry(1))
    there = path.with_name("audit-000000000001.jsonl")
    there.write_bytes(b"evidence\n")
    write(Record(path, file_bytes=1), entry(2))
    assert there.read_bytes() == b"evidence\n"
    assert path.with_name("audit-000000000002.jsonl").exists()


def test_zeros_that_a_power_cut_leaves_are_cut_off(path):
    write(Record(path), entry(1))
    with path.open("ab") as file:
        file.write(b"\0" * 4096)
    write(Record(path), entry(2))
    assert [each["seq"] for each in read(path)] == [1, 2, 3]
    assert fault(path) == ""


def test_a_torn_first_line_begins_the_record(path):
    path.parent.mkdir()
    path.write_bytes(b'{"sche')
    write(Record(path), entry(1))
    assert [each["what"] for each in read(path)] == ["record.recovered", "run.ended"]
    assert fault(path) == ""


def test_entries_removed_at_the_end_stay_missing_after_the_next_entry(path):
    write(Record(path), *map(entry, range(1, 6)))
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:3]))
    kept = Record(path)
    write(kept, entry(6))
    assert kept.repaired == "entries 4 to 5 were removed from the end"
    assert fault(path) == "entries 4 to 5 were removed before audit.jsonl line 4"


def test_a_removed_file_is_missed_after_the_next_entry(path):
    write(Record(path), entry(1), entry(2))
    path.unlink()
    assert fault(path) == "entries 1 to 2 were removed from the end"
    write(Record(path), entry(3))
    assert fault(path) == "entries 1 to 2 were removed: the record begins with 3"


def test_a_last_line_of_nonsense_is_named_and_the_record_goes_on(path):
    write(Record(path), entry(1))
    with path.open("ab") as file:
        file.write(b"nonsense\n")
    write(Record(path), entry(2))
    assert read_lenient(path)[-1]["seq"] == 3
    assert fault(path) == "audit.jsonl line 2 is no entry"


def read_lenient(path):
    return [json.loads(row) for row in path.read_bytes().splitlines() if row[:1] == b"{"]


def test_a_large_file_is_rotated_and_the_chain_goes_on(path):
    kept = Record(path, file_bytes=2000)
    for number in range(1, 40):
        write(kept, entry(number))
    rotated = record_file.rotated_files(path)
    assert kept.rotations == len(rotated) >= 3
    assert all(each.stat().st_size < 2600 for each in rotated)
    found = read(path)
    assert [each["seq"] for each in found] == list(range(1, len(found) + 1))
    assert [each["what"] for each in found].count("record.rotated") == len(rotated)
    assert fault(path) == ""


def test_ten_rotated_files_are_kept_and_the_removed_ones_are_not_missed(path):
    kept = Record(path, file_bytes=1)
    for number in range(1, 30):
        write(kept, entry(number))
    assert len(record_file.rotated_files(path)) == record_file.FILES
    assert read(path)[0]["seq"] > 1
    assert fault(path) == ""
    record_file.rotated_files(path)[0].unlink()
    assert "were removed: the record begins with" in fault(path)


def test_a_file_removed_from_the_middle_is_named(path):
    kept = Record(path, file_bytes=1)
    for number in range(1, 5):
        write(kept, entry(number))
    gone = record_file.rotated_files(path)[1]
    gone.unlink()
    assert fault(path).startswith("entries 2 to 3 were removed before audit-")


def test_an_old_file_is_rotated(path):
    clock = Clock()
    write(Record(path, clock=clock), entry(1))
    clock.now += record_file.FILE_AGE
    write(Record(path, clock=clock), entry(2))
    assert record_file.rotated_files(path) == ()
    clock.now += datetime.timedelta(seconds=1)
    write(Record(path, clock=clock), entry(3))
    assert [each.name for each in record_file.rotated_files(path)] == ["audit-000000000002.jsonl"]
    assert fault(path) == ""


def test_a_crash_between_rename_and_first_entry_loses_nothing(path):
    write(Record(path), entry(1))
    path.rename(path.with_name("audit-000000000001.jsonl"))
    assert fault(path) == ""
    write(Record(path), entry(2))
    assert [each["what"] for each in read(path)] == ["run.ended", "record.rotated", "run.ended"]
    assert fault(path) == ""


def test_an_event_that_is_there_once_is_not_written_again(path):
    started = Entry(what=Event.RUN_STARTED, run="7", once=True)
    write(Record(path), started)
    write(Record(path), started, Entry(what=Event.RUN_STARTED, run="77", once=True))
    assert [each["run"] for each in read(path)] == ["7", "77"]


def full(monkeypatch, room):
    """Let a disk take `room` more bytes of the record."""
    plain = os.write

    def some(descriptor, data):
        if b'"schema"' not in data:
            return plain(descriptor, data)
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(descriptor, data[:room])

    monkeypatch.setattr(os, "write", some)


@pytest.mark.parametrize("room", [0, 50])
def test_a_full_disk_is_a_finding_and_its_entries_are_written_later(path, monkeypatch, room):
    kept = Record(path)
    write(kept, entry(1))
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        full(patched, room)
        kept.append(entry(2), now=0.0)
        found = kept.flush(0.0)
        assert found.code == "record.unwritable"
        assert "No space left on device" in found.message
        assert path.read_bytes() == before
        kept.append(entry(3), now=1.0)
        assert kept.flush(1.0) == found
    assert kept.flush(record_file.RETRY_S - 1) == found
    assert kept.flush(record_file.RETRY_S) is None
    assert [each["run"] for each in read(path)] == ["1", "2", "3"]
    assert fault(path) == ""


def test_a_disk_without_room_gets_no_file_at_all(path, monkeypatch):
    kept = Record(path)
    path.parent.mkdir()
    kept.append(entry(1), now=0.0)
    with monkeypatch.context() as patched:
        patched.setattr(files, "room_bytes", lambda _: record_file.ROOM_BYTES - 1)
        assert "No space left on device" in kept.flush(0.0).message
    assert list(path.parent.iterdir()) == []
    assert kept.flush(record_file.RETRY_S) is None
    assert [each["run"] for each in read(path)] == ["1"]


def test_what_memory_does_not_hold_meanwhile_is_counted(path, monkeypatch):
    kept = Record(path)
    with monkeypatch.context() as patched:
        full(patched, 0)
        kept.append(*map(entry, range(record_file.MOST_WAITING + 30)))
        assert kept.flush(0.0) is not None
    now = 0.0
    while kept.waiting:
        now += record_file.RETRY_S
        assert kept.flush(now) is None
    found = read(path)
    assert len(found) == record_file.MOST_WAITING + 1
    (lost,) = [each for each in found if each["what"] == "record.lost"]
    assert (lost["count"], lost["message"]) == (30, "30 entries could not be kept")


def test_one_flush_writes_few_entries(path):
    kept = Record(path)
    kept.append(*map(entry, range(record_file.BATCH + 5)))
    assert kept.flush() is None
    assert len(read(path)) == record_file.BATCH
    assert kept.flush() is None
    assert len(read(path)) == record_file.BATCH + 5


def test_a_directory_in_the_way_is_a_finding(path):
    path.parent.parent.joinpath("state").write_text("in the way")
    kept = Record(path)
    kept.append(entry(1))
    assert kept.flush().code == "record.unwritable"


def test_a_link_in_the_way_is_not_followed(path, tmp_path):
    path.parent.mkdir()
    (tmp_path / "other").write_text("")
    path.symlink_to(tmp_path / "other")
    kept = Record(path)
    kept.append(entry(1))
    assert kept.flush().code == "record.unwritable"
    assert (tmp_path / "other").read_text() == ""


def test_a_process_that_keeps_the_lock_is_waited_for_and_said_after_a_while(path):
    kept = Record(path)
    write(kept, entry(1))
    kept.append(entry(2), now=0.0)
    with path.with_suffix(".lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert kept.flush(0.0) is None
        assert kept.flush(record_file.BLOCKED_S).code == "record.unwritable"
    assert kept.flush(record_file.BLOCKED_S + 1) is None
    assert len(read(path)) == 2


def test_equal_refused_calls_are_one_entry_a_minute(path):
    kept = Record(path)
    for second in range(60):
        kept.append(entry(7, result=Result.REFUSED, message="no"), now=float(second))
        assert kept.flush(float(second)) is None
    assert kept.flush(60.0) is None
    assert [each.get("count", 1) for each in read(path)] == [1, 59]


def test_the_record_is_read_while_the_agent_writes_and_rotates(path):
    kept = Record(path, file_bytes=500)
    write(kept, entry(1), entry(2), entry(3))
    with record_file.reading(path) as (lines, head):
        write(kept, entry(4))
        write(kept, entry(5))
        assert record.walk(lines, head) == record.Walked(3, head)


def test_a_link_leads_to_the_record(path, tmp_path):
    at = tmp_path / "log" / "flower-agent" / "audit.jsonl"
    for _ in range(2):
        record_file.link(path, at)
        assert at.readlink() == path
    at.unlink()
    at.symlink_to(tmp_path)
    record_file.link(path, at)
    assert at.readlink() == path
    assert [each.name for each in at.parent.iterdir()] == ["audit.jsonl"]


def test_a_file_of_somebody_else_in_place_of_the_link_stays(path, tmp_path):
    at = tmp_path / "audit.jsonl"
    at.write_text("mine")
    record_file.link(path, at)
    assert at.read_text() == "mine"
