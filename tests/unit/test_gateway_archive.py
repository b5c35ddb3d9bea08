"""The archive of a run's outputs: a tar that can be cut anywhere."""

import io
import os
import random
import tarfile

import pytest

from flower_agent.gateway import archive
from flower_agent.gateway.archive import ArchivedFile

CONTENT = {
    "model.npz": b"m" * 1500,
    "empty.txt": b"",
    "deep/" + "n" * 150: b"x" * 512,
    "ü.txt": b"u",
}


@pytest.fixture
def files(tmp_path):
    opened = []
    for number, (name, data) in enumerate(CONTENT.items()):
        path = tmp_path / str(number)
        path.write_bytes(data)
        descriptor = os.open(path, os.O_RDONLY)
        opened.append(ArchivedFile(name, len(data), 1_700_000_000, descriptor))
    yield opened
    for file in opened:
        os.close(file.descriptor)


def read(pieces):
    return b"".join(
        piece.text
        if piece.descriptor < 0
        else os.pread(piece.descriptor, piece.length, piece.offset)
        for piece in pieces
    )


def test_it_is_a_tar_of_every_file(files):
    whole = list(archive.pieces("run-7", files))
    data = read(whole)
    assert len(data) == archive.length(whole)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}
    assert found == {f"run-7/{name}": content for name, content in CONTENT.items()}


def test_any_two_cuts_make_the_whole(files):
    whole = list(archive.pieces("run-7", files))
    data = read(whole)
    chance = random.Random(7)
    for _ in range(200):
        first, after = sorted(chance.sample(range(len(data) + 1), 2))
        assert read(archive.cut(whole, first, after)) == data[first:after]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, None), ("", None), ("bytes=0-", (0, 100)), ("bytes=10-19", (10, 20)),
        ("bytes=10-500", (10, 100)), ("bytes=-5", None), ("bytes=5-2", None), ("lines=1-2", None),
        ("bytes=0-1,5-6", None), ("bytes=" + "9" * 40 + "-", None),
    ],
)  # fmt: skip
def test_a_range_is_read_as_http_says(header, found):
    assert archive.wanted(header, 100) == found


def test_a_range_behind_the_end_is_refused():
    with pytest.raises(ValueError, match="100 bytes"):
        archive.wanted("bytes=100-", 100)


def test_the_tag_changes_with_a_file(files):
    before = archive.etag("run-7", files)
    assert before == archive.etag("run-7", list(files))
    assert before != archive.etag("run-8", files)
    assert before != archive.etag("run-7", files[1:])
