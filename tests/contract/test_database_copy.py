"""Copies of the database: whole or absent, and writable by Flower."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

from flower_agent.docker.containers import FLOWER_UID
from flower_agent.model.errors import AgentError
from flower_agent.upgrade.database_copy import DatabaseCopy


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
    return DatabaseCopy(place, tmp_path / "copies")


def test_a_copy_is_put_back_whole_after_the_original_changed(kept, place):
    kept.copy("1.25.0", "1.34.0")
    assert kept.copied_for("1.25.0") == "1.34.0"
    (place / "state.db").write_text("migrated")
    (place / "new").write_text("")
    kept.restore("1.25.0")
    assert (place / "state.db").read_text() == "as it was"
    assert (place / "ffs" / "an-app").read_bytes() == b"\0" * 4096
    assert not (place / "new").exists()
    assert not kept.copied_for("1.25.0")
    assert list(place.parent.joinpath("copies").iterdir()) == []


def test_flower_may_write_what_was_put_back(kept, place):
    kept.copy("1.25.0", "1.34.0")
    kept.restore("1.25.0")
    for path in (place, *place.rglob("*")):
        seen = path.stat()
        assert seen.st_gid == FLOWER_UID
        assert seen.st_mode & 0o7777 == (0o770 if path.is_dir() else 0o660)


def test_a_restore_that_was_cut_off_can_be_done_again(kept, place):
    kept.copy("1.25.0", "1.34.0")
    shutil.rmtree(place)
    kept.restore("1.25.0")
    assert (place / "state.db").read_text() == "as it was"


def test_a_copy_that_was_cut_off_is_none_and_is_made_anew(kept, tmp_path):
    begun = tmp_path / "copies" / ".superlink-1.25.0+1.34.0.new"
    begun.mkdir(parents=True)
    (begun / "half").write_text("")
    assert not kept.copied_for("1.25.0")
    kept.copy("1.25.0", "1.34.0")
    assert not (tmp_path / "copies/superlink-1.25.0+1.34.0/half").exists()


def test_only_the_last_copy_is_kept(kept):
    for version in ("1.23.0", "1.25.0"):
        kept.copy(version, "1.34.0")
    kept.keep("1.25.0")
    assert not kept.copied_for("1.23.0")
    assert kept.copied_for("1.25.0")


def test_a_copy_that_cannot_be_written_is_refused_and_leaves_nothing(kept, tmp_path):
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies/superlink-1.25.0+1.34.0").write_text("in the way")
    with pytest.raises(AgentError) as caught:
        kept.copy("1.25.0", "1.34.0")
    assert caught.value.finding.code == "state.unwritable"


def test_a_disk_without_room_for_a_copy_is_told_before_anything_stops(kept, place, tmp_path):
    kept.check_room()
    greedy = DatabaseCopy(place, tmp_path / "copies", room_bytes=1 << 60)
    with pytest.raises(AgentError) as caught:
        greedy.check_room()
    assert caught.value.finding.code == "state.unwritable"
    assert "MiB are free" in caught.value.finding.message


def test_a_file_that_cannot_be_copied_is_named_with_the_reason(kept, place, tmp_path):
    os.mkfifo(place / "pipe")
    with pytest.raises(AgentError, match="pipe` is a named pipe"):
        kept.copy("1.25.0", "1.34.0")
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_link_is_copied_as_a_link(kept, place, tmp_path):
    (tmp_path / "secret").write_text("not Flower's")
    (place / "link").symlink_to(tmp_path / "secret")
    before = (tmp_path / "secret").stat()
    kept.copy("1.25.0", "1.34.0")
    kept.restore("1.25.0")
    assert (place / "link").is_symlink()
    assert (tmp_path / "secret").stat() == before


FAIL_TWICE = """
import pathlib, sys
from flower_agent.upgrade.database_copy import DatabaseCopy
place = pathlib.Path(sys.argv[1])
kept = DatabaseCopy(place, place.parent / "copies")
for new in ("1.34.0", "1.36.0"):
    kept.copy("1.25.0", new)
    kept.restore("1.25.0")
    kept.keep("1.25.0")
"""


def test_an_agent_without_capabilities_fails_twice_and_gets_the_database_back(place):
    """What Flower made in a directory of its own cannot be removed then, and is in nobody's way."""
    command = ["setpriv", "--bounding-set=-all", f"--groups={FLOWER_UID}"]
    subprocess.run([*command, sys.executable, "-c", FAIL_TWICE, place], check=True, timeout=30)
    assert (place / "state.db").read_text() == "as it was"
    (left,) = (place.parent / "copies").iterdir()
    assert left.name.startswith(".gone-")


def test_a_directory_that_is_a_file_system_of_its_own_is_refused(tmp_path):
    apart = pathlib.Path("/dev/shm") / tmp_path.name
    apart.mkdir()
    try:
        if apart.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is not another file system than the temporary directory's")
        with pytest.raises(AgentError, match="is a separate file system"):
            DatabaseCopy(apart, tmp_path / "copies", room_bytes=0).check_room()
    finally:
        apart.rmdir()


def test_files_that_come_and_go_do_not_disturb_the_look_for_room(kept, place):
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for path in (place / "state.db-journal", place / "tmp"):
                path.write_text("") if path.name != "tmp" else path.mkdir()
                path.unlink() if path.name != "tmp" else path.rmdir()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            kept.check_room()
    finally:
        stop.set()
        writer.join()
