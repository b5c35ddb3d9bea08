"""A run's outputs as one tar archive that can be cut anywhere, so that a download resumes. Pure.

Files are stored as they are, so the length and every byte's place are known before any is read.
Format: POSIX.1-2001 (pax), which every tar reads.
"""

import dataclasses
import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator

_BLOCK = 512
_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{0,19})", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One file of a run: an open descriptor and what was said of it."""

    name: str
    size: int
    """Bytes; a file that grows is cut here."""

    mtime: int
    """Unix time, seconds."""

    descriptor: int = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """So many bytes of the archive: of a file, or as they stand here."""

    length: int
    text: bytes = b""
    descriptor: int = -1
    offset: int = 0


def pieces(folder: str, files: Iterable[ArchivedFile]) -> Iterator[Piece]:
    """Yield the whole archive, with every file below one folder."""
    for file in files:
        header = tarfile.TarInfo(f"{folder}/{file.name}")
        header.size, header.mtime, header.mode = file.size, file.mtime, 0o644
        text = header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield Piece(len(text), text)
        if file.size:
            yield Piece(file.size, descriptor=file.descriptor)
        padding = -file.size % _BLOCK
        if padding:
            yield Piece(padding, bytes(padding))
    yield Piece(2 * _BLOCK, bytes(2 * _BLOCK))


def length(archive: Iterable[Piece]) -> int:
    """Return the bytes of an archive."""
    return sum(piece.length for piece in archive)


def cut(archive: Iterable[Piece], first: int, after: int) -> Iterator[Piece]:
    """Yield the bytes from `first` to before `after`."""
    at = 0
    for piece in archive:
        begin, end = max(first - at, 0), min(after - at, piece.length)
        at += piece.length
        if begin < end:
            yield dataclasses.replace(
                piece,
                length=end - begin,
                text=piece.text[begin:end],
                offset=piece.offset + begin,
            )


def etag(folder: str, files: Iterable[ArchivedFile]) -> str:
    """Return what changes when any byte of the archive may have changed."""
    said = [folder, *(f"{file.name}\0{file.size}\0{file.mtime}" for file in files)]
    return (
        '"' + hashlib.sha256("\n".join(said).encode("utf-8", "surrogateescape")).hexdigest() + '"'
    )


def wanted(header: str | None, whole: int) -> tuple[int, int] | None:
    """Return first and one after the last byte of an HTTP ``Range``; None asks for everything.

    A form that we do not serve counts as none (RFC 9110, section 14.2). Raises ValueError for a
    range behind the end.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None:
        return None
    first = int(match[1])
    last = int(match[2]) if match[2] else whole - 1
    if match[2] and last < first:
        return None
    if first >= whole:
        raise ValueError(f"the archive has {whole} bytes")
    return first, min(last + 1, whole)
