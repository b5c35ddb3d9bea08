"""Atomic writes, bounded reads, directories and the one lock."""

import contextlib
import os
import resource
import stat
import subprocess
import sys
import threading
from concurrent import futures

import pytest

from flower_agent import files, process
from flower_agent.model.errors import AgentError

# Handing a file to a group that is not one's own needs root; else the own one must do.
GROUP = 49999 if os.geteuid() == 0 else os.getegid()


@pytest.fixture(autouse=True)
def umask():
    """The unit's UMask=0077."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def names(path):
    return sorted(found.name for found in path.iterdir())


@contextlib.contextmanager
def largest_file(size):
    """A disk that fills up, as far as a process can have one of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_written_with_its_mode_whatever_the_umask(tmp_path, durable):
    files.write_atomic(tmp_path / "ca.crt", b"pem", 0o444, durable=durable)
    assert (tmp_path / "ca.crt").read_bytes() == b"pem"
    assert mode(tmp_path / "ca.crt") == 0o444


def test_a_file_is_replaced_and_takes_the_new_mode_and_group(tmp_path):
    path = tmp_path / "server.key"
    files.write_atomic(path, b"old", 0o644)
    files.write_atomic(path, b"new", 0o440, group=GROUP)
    assert path.read_bytes() == b"new"
    assert (mode(path), path.stat().st_gid) == (0o440, GROUP)
    assert names(tmp_path) == ["server.key"]


def test_a_reader_of_the_old_file_keeps_the_old_content(tmp_path):
    files.write_atomic(tmp_path / "f", b"old", 0o600)
    with (tmp_path / "f").open("rb") as reader:
        files.write_atomic(tmp_path / "f", b"newer", 0o600)
        assert reader.read() == b"old"


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    files.write_atomic(tmp_path / "f", b"old", 0o600)
    with pytest.raises(TypeError):
        files.write_atomic(tmp_path / "f", "not bytes", 0o600)
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_failed_replace_is_unwritable_names_the_path_and_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(AgentError, match=str(tmp_path / "taken")) as caught:
        files.write_atomic(tmp_path / "taken", b"x", 0o600)
    assert caught.value.finding.code == "state.unwritable"
    assert caught.value.retryable
    assert names(tmp_path) == ["taken"]


def test_a_write_that_is_cut_off_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    files.write_atomic(tmp_path / "f", b"old", 0o600)
    with largest_file(100), pytest.raises(AgentError, match="File too large") as caught:
        files.write_atomic(tmp_path / "f", b"x" * 200, 0o600)
    assert caught.value.finding.code == "state.unwritable"
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_file_in_a_missing_directory_is_unwritable(tmp_path):
    with pytest.raises(AgentError, match="No such file") as caught:
        files.write_atomic(tmp_path / "absent/f", b"x", 0o600)
    assert caught.value.finding.code == "state.unwritable"


def test_what_a_killed_process_left_under_our_name_is_overwritten(tmp_path):
    left = tmp_path / f".f.{os.getpid()}.{threading.get_ident()}.tmp"
    left.symlink_to(tmp_path / "elsewhere")
    files.write_atomic(tmp_path / "f", b"x", 0o600)
    assert names(tmp_path) == ["f"]


def test_a_sweep_removes_only_what_killed_writers_left(tmp_path):
    for name in (".server.key.17.140.tmp", ".f.1.2.tmp", "f", ".hidden", "a.b.c.tmp"):
        (tmp_path / name).write_text("x")
    files.sweep(tmp_path)
    assert names(tmp_path) == [".hidden", "a.b.c.tmp", "f"]
    files.sweep(tmp_path / "absent")


def test_an_absent_file_reads_as_none(tmp_path):
    (tmp_path / "f").write_text("x")
    assert files.read(tmp_path / "absent", 10) is None
    assert files.read(tmp_path / "f" / "below", 10) is None


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    assert files.read(tmp_path / "f", 5) == b"12345"
    with pytest.raises(AgentError, match="larger than 4 bytes") as caught:
        files.read(tmp_path / "f", 4)
    assert caught.value.finding.code == "state.corrupt"


def test_what_cannot_be_read_is_corrupt_and_named(tmp_path):
    with pytest.raises(AgentError, match=str(tmp_path)) as caught:
        files.read(tmp_path, 4)
    assert caught.value.finding.code == "state.corrupt"


def test_a_directory_gets_its_mode_and_its_missing_parents_0755(tmp_path):
    files.directory(tmp_path / "run/flower-agent", 0o700)
    assert mode(tmp_path / "run/flower-agent") == 0o700
    assert mode(tmp_path / "run") == 0o755


def test_a_directory_is_given_to_a_group_and_keeps_its_setgid_bit(tmp_path):
    files.directory(tmp_path / "superlink", 0o2770, group=GROUP)
    assert mode(tmp_path / "superlink") == 0o2770
    assert (tmp_path / "superlink").stat().st_gid == GROUP


def test_threads_may_make_the_same_directory_at_once(tmp_path):
    places = [tmp_path / str(number) / "a" / "b" for number in range(200)]
    together = threading.Barrier(4, timeout=10)

    def make(_):
        for place in places:
            together.wait()
            files.directory(place, 0o750)

    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))
    assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {0o750}


def test_a_directory_that_is_right_is_not_touched(tmp_path):
    files.directory(tmp_path / "d", 0o2770, group=GROUP)
    before = (tmp_path / "d").stat().st_ctime_ns
    files.directory(tmp_path / "d", 0o2770, group=GROUP)
    assert (tmp_path / "d").stat().st_ctime_ns == before


def test_a_directory_with_another_mode_is_put_right(tmp_path):
    files.directory(tmp_path / "d", 0o755)
    files.directory(tmp_path / "d", 0o700)
    assert mode(tmp_path / "d") == 0o700


def test_a_state_directory_may_be_a_link_to_another_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "disk")
    files.directory(tmp_path / "state", 0o750)
    assert mode(tmp_path / "disk") == 0o750


@pytest.mark.parametrize("below", ["", "/d"])
def test_a_file_in_the_way_of_a_directory_is_unwritable(tmp_path, below):
    (tmp_path / "f").write_text("x")
    with pytest.raises(AgentError) as caught:
        files.directory(tmp_path / f"f{below}", 0o700)
    assert caught.value.finding.code == "state.unwritable"


def test_a_lock_is_held_once_and_tells_by_whom(tmp_path):
    path = tmp_path / "lock"
    assert not files.held(path)
    with files.lock(path) as mine:
        assert mine is not None
        assert files.lock(path) is None
        assert files.held(path)
        assert path.read_text() == f"{process.own()}\n"
        assert mode(path) == 0o600
    assert not files.held(path)
    assert path.exists()


def test_a_lock_that_anyone_could_open_is_closed_to_them(tmp_path):
    path = tmp_path / "lock"
    path.write_text("1\n")
    path.chmod(0o644)
    with files.lock(path):
        assert mode(path) == 0o600


def test_whoever_may_not_open_a_lock_cannot_tell_who_holds_it(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", refused)
    assert files.held(tmp_path / "lock") is None


def test_a_lock_can_be_taken_again_after_it_was_closed(tmp_path):
    first = files.lock(tmp_path / "lock")
    first.close()
    first.close()
    second = files.lock(tmp_path / "lock")
    assert second is not None
    second.close()


def test_a_lock_ends_with_its_process_even_when_it_is_killed(tmp_path):
    code = (
        "import sys, pathlib, time; from flower_agent import files; "
        "mine = files.lock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"held\n"
        assert files.held(tmp_path / "lock")
        assert (tmp_path / "lock").read_text().startswith(f"{owner.pid} ")
        owner.kill()
        owner.wait()
    assert not files.held(tmp_path / "lock")


def test_someone_who_only_asks_does_not_keep_an_agent_from_starting(tmp_path):
    path = tmp_path / "lock"
    path.write_text("")
    done = threading.Event()
    asker = threading.Thread(target=ask_until, args=(path, done))
    asker.start()
    try:
        for _ in range(50):
            mine = files.lock(path)
            assert mine is not None
            mine.close()
    finally:
        done.set()
        asker.join()


def test_a_lock_in_an_absent_directory_is_unwritable(tmp_path):
    with pytest.raises(AgentError) as caught:
        files.lock(tmp_path / "absent/lock")
    assert caught.value.finding.code == "state.unwritable"


def test_a_lock_file_that_may_not_be_read_is_an_error_that_names_it(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(AgentError, match="loop"):
        files.held(tmp_path / "loop")


def ask_until(path, done):
    while not done.is_set():
        files.held(path)
