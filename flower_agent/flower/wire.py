"""The protobuf wire format, as much of it as the Control API needs.

Wire format: protobuf.dev, "Encoding". A message is a row of (number, wire type, value); unknown
numbers are skipped, so a newer Flower that adds fields is still read. Made by hand because the
generated code needs the protobuf library and one set of files for each Flower version.
"""

import dataclasses
import struct
from collections.abc import Iterator
from typing import TypeVar

Value = int | float | bytes
"""The kinds of values on the wire: a varint, a double, or bytes (text, bytes, a message in it)."""

_VARINT, _DOUBLE, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_MAX_BYTES = 10
_MASK = (1 << 64) - 1

T = TypeVar("T", int, float, bytes)


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """The fields of one message in the order of the wire; absent fields read as zero or empty."""

    fields: tuple[tuple[int, Value], ...]

    def integer(self, number: int) -> int:
        """Return an unsigned integer, boolean or enum."""
        return self._last(number, int, 0)

    def double(self, number: int) -> float:
        """Return a double."""
        return self._last(number, float, 0.0)

    def data(self, number: int) -> bytes:
        """Return bytes."""
        return self._last(number, bytes, b"")

    def text(self, number: int) -> str:
        """Return text; bytes that are not UTF-8 are replaced."""
        return self.data(number).decode("utf-8", "replace")

    def message(self, number: int) -> "Message":
        """Return the message in a field; absent gives an empty one."""
        return decode(self.data(number))

    def messages(self, number: int) -> tuple["Message", ...]:
        """Return the messages of a repeated field or of a map's entries (1 key, 2 value)."""
        return tuple(decode(value) for value in self._all(number, bytes))

    def _all(self, number: int, kind: type[T]) -> Iterator[T]:
        for found, value in self.fields:
            if found == number:
                if not isinstance(value, kind):
                    raise ValueError(f"field {number} is not of the wanted type")
                yield value

    def _last(self, number: int, kind: type[T], absent: T) -> T:
        """Return the last one on the wire: that is the one that counts."""
        values = tuple(self._all(number, kind))
        return values[-1] if values else absent


def decode(data: bytes) -> Message:
    """Return the message in `data`. Raises ValueError when it is cut short or not protobuf."""
    fields = []
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire = key >> 3, key & 7
        value: Value
        if wire == _VARINT:
            value, at = _read_varint(data, at)
        elif wire == _DOUBLE:
            raw, at = _read_bytes(data, at, 8)
            value = struct.unpack("<d", raw)[0]
        elif wire == _BYTES:
            length, at = _read_varint(data, at)
            value, at = _read_bytes(data, at, length)
        elif wire == _FIXED32:
            value, at = _read_bytes(data, at, 4)
        else:
            raise ValueError(f"wire type {wire} is not known")
        if not number:
            raise ValueError("a field has number 0")
        fields.append((number, value))
    return Message(tuple(fields))


def encode(*fields: tuple[int, int | float | str | bytes]) -> bytes:
    """Return the message with `fields`, each a number and a value that is put on the wire as is."""
    return b"".join(_encode_field(number, value) for number, value in fields)


def _encode_field(number: int, value: float | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | _DOUBLE) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value &= _MASK
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004  # seven bits a byte, the eighth says that more follow
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_VARINT_MAX_BYTES):
        if at + index >= len(data):
            raise ValueError("cut short in a number")
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value & _MASK, at + index + 1
    raise ValueError("a number is longer than 64 bits")


def _read_bytes(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if at + length > len(data):
        raise ValueError("cut short in a value")
    return data[at : at + length], at + length
