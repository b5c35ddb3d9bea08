"""Outputs are opened for another process: what an app left is not what it gets out of it."""

import os
import socket

import pytest

from flower_agent.runs import output_files


@pytest.fixture
def outputs(tmp_path):
    place = tmp_path / "runs" / "7" / "outputs"
    place.mkdir(parents=True)
    return place


def names(place):
    with output_files.opened(place) as (found, left_out):
        return [each.name for each in found], left_out


def test_files_are_given_by_name_with_size_date_and_content(outputs):
    (outputs / "b.txt").write_text("bb")
    (outputs / "a" / "deep").mkdir(parents=True)
    (outputs / "a" / "deep" / "model.npz").write_bytes(b"12345")
    os.utime(outputs / "b.txt", (1700000000.5, 1700000000.5))
    with output_files.opened(outputs) as (found, left_out):
        rows = [(each.name, each.size, os.read(each.descriptor, 9)) for each in found]
        assert rows == [("a/deep/model.npz", 5, b"12345"), ("b.txt", 2, b"bb")]
        assert found[1].mtime == 1700000000
        assert left_out == 0
        with pytest.raises(OSError, match="Bad file"):
            os.write(found[0].descriptor, b"x")
        held = [each.descriptor for each in found]
    for descriptor in held:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)


def test_a_run_without_outputs_has_none(tmp_path):
    assert names(tmp_path / "nowhere") == ([], 0)
    (tmp_path / "file").write_text("x")
    assert names(tmp_path / "file") == ([], 0)


def test_no_link_is_followed_wherever_it_stands(outputs, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("SECRET")
    (outputs / "link").symlink_to(secret / "key")
    (outputs / "folder").symlink_to(secret)
    (outputs / "up").symlink_to("../../../secret")
    (outputs / "fine").write_text("x")
    assert names(outputs) == (["fine"], 3)
    elsewhere = tmp_path / "runs" / "8"
    elsewhere.mkdir()
    (elsewhere / "outputs").symlink_to(secret)
    assert names(elsewhere / "outputs") == ([], 0)


def test_what_is_no_regular_file_is_not_opened(outputs):
    os.mkfifo(outputs / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(outputs / "socket"))
    (outputs / "fine").write_text("x")
    assert names(outputs) == (["fine"], 2), "opening a FIFO would hang"


def test_names_that_no_terminal_may_have_are_left_out(outputs):
    for name in (b"bell\x07", b"line\nend", b"not-\xff-text", b"\xe2\x80\xaegpj.exe"):
        (outputs / os.fsdecode(name)).write_text("x")
    (outputs / "..two dots").write_text("x")
    assert names(outputs) == (["..two dots"], 4)


def test_long_names_and_deep_trees_are_left_out(outputs):
    deep = outputs
    for level in range(output_files.DEPTH + 2):
        deep = deep / f"d{level}"
        deep.mkdir()
        (deep / "f").write_text("x")
    found, left_out = names(outputs)
    assert len(found) == output_files.DEPTH
    assert left_out == 1
    long = outputs / ("l" * 250) / ("m" * 250)
    long.mkdir(parents=True)
    (long / ("n" * 20)).write_text("x")
    assert names(outputs)[1] == 2


def test_there_is_a_most_of_files_and_of_what_is_looked_at(outputs, monkeypatch):
    for number in range(output_files.FILES + 5):
        (outputs / f"{number:04}").write_text("")
    found, left_out = names(outputs)
    assert (len(found), left_out) == (output_files.FILES, 5)
    assert found[-1] == "0199"
    monkeypatch.setattr(output_files, "SEEN", 10)
    assert names(outputs)[1] >= 1
    assert len(names(outputs)[0]) == 10


def test_what_may_not_be_read_is_left_out(outputs, monkeypatch):
    (outputs / "fine").write_text("x")
    (outputs / "shut").write_text("x")
    really = os.open

    def refused(path, flags, *rest, **more):
        if path == "shut":
            raise PermissionError
        return really(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refused)
    assert names(outputs) == (["fine"], 1)
