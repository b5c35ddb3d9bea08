"""Copies of the database: whole or absent, and writable by Flower."""

import os
import shutil

import pytest

from flower_agent.containers import FLOWER_UID
from flower_agent.database import Database
from flower_agent.errors import AgentError


@pytest.fixture
def place(tmp_path):
    """A SuperLink's directory as Flower leaves it."""
    path = tmp_path / "superlink"
    (path / "ffs").mkdir(parents=True)
    (path / "state.db").write_text("as it was")
    (path / "ffs" / "an-app").write_bytes(b"\0" * 4096)
    for each in (path / "state.db", path / "ffs", path / "ffs" / "an-app"):
        os.chown(each, FLOWER_UID, FLOWER_UID)
    return path


@pytest.fixture
def kept(place, tmp_path):
    return Database(place, tmp_path / "copies")


def test_a_copy_is_put_back_whole_after_the_original_changed(kept, place):
    kept.copy("1.25.0")
    assert kept.copied("1.25.0")
    (place / "state.db").write_text("migrated")
    (place / "new").write_text("")
    kept.restore("1.25.0")
    assert (place / "state.db").read_text() == "as it was"
    assert (place / "ffs" / "an-app").read_bytes() == b"\0" * 4096
    assert not (place / "new").exists()
    assert not kept.copied("1.25.0")
    assert list(place.parent.joinpath("copies").iterdir()) == []


def test_flower_may_write_what_was_put_back(kept, place):
    kept.copy("1.25.0")
    kept.restore("1.25.0")
    for path in (place, *place.rglob("*")):
        seen = path.stat()
        assert seen.st_gid == FLOWER_UID
        assert seen.st_mode & 0o7777 == (0o2770 if path.is_dir() else 0o660)


def test_a_restore_that_was_cut_off_can_be_done_again(kept, place):
    kept.copy("1.25.0")
    shutil.rmtree(place)
    kept.restore("1.25.0")
    assert (place / "state.db").read_text() == "as it was"


def test_a_copy_that_was_cut_off_is_none_and_is_made_anew(kept, tmp_path):
    begun = tmp_path / "copies" / ".superlink-1.25.0.new"
    begun.mkdir(parents=True)
    (begun / "half").write_text("")
    assert not kept.copied("1.25.0")
    kept.copy("1.25.0")
    assert not (tmp_path / "copies/superlink-1.25.0/half").exists()


def test_only_the_last_copy_is_kept(kept):
    for version in ("1.23.0", "1.25.0"):
        kept.copy(version)
    kept.keep("1.25.0")
    assert not kept.copied("1.23.0")
    assert kept.copied("1.25.0")


def test_a_copy_that_cannot_be_written_is_refused_and_leaves_nothing(kept, tmp_path):
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies/superlink-1.25.0").write_text("in the way")
    with pytest.raises(AgentError) as caught:
        kept.copy("1.25.0")
    assert caught.value.finding.code == "state.unwritable"


def test_a_disk_without_room_for_a_copy_is_told_before_anything_stops(kept, place, tmp_path):
    kept.check_room()
    greedy = Database(place, tmp_path / "copies", room_bytes=1 << 60)
    with pytest.raises(AgentError) as caught:
        greedy.check_room()
    assert caught.value.finding.code == "state.unwritable"
    assert "MiB are free" in caught.value.finding.message
