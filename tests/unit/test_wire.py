"""The protobuf wire format; the reference is Google's own library, which the tests have."""

import struct

import pytest
from google.protobuf import descriptor_pb2, struct_pb2, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.flower import wire

NUMBERS = st.integers(1, 2**29 - 1)
UNSIGNED = st.integers(0, 2**64 - 1)
VALUES = UNSIGNED | st.floats(allow_nan=False) | st.binary(max_size=300)


@given(st.lists(st.tuples(NUMBERS, VALUES), max_size=20))
def test_what_is_encoded_decodes_to_the_same_fields(fields):
    assert wire.decode(wire.encode(*fields)).fields == tuple(fields)


@given(UNSIGNED)
def test_unsigned_integers_are_read_as_googles_library_writes_them(value):
    assert (
        wire.decode(wrappers_pb2.UInt64Value(value=value).SerializeToString()).integer(1) == value
    )


@given(UNSIGNED)
def test_googles_library_reads_the_unsigned_integers_that_we_write(value):
    assert wrappers_pb2.UInt64Value.FromString(wire.encode((1, value))).value == value


@given(st.integers(-(2**63), -1))
def test_a_negative_integer_is_written_in_ten_bytes_as_protobuf_wants(value):
    assert wrappers_pb2.Int64Value.FromString(wire.encode((1, value))).value == value


@given(st.floats(allow_nan=False), st.text())
def test_doubles_and_text_are_those_of_googles_library(number, text):
    message = wire.decode(
        struct_pb2.Value(number_value=number).SerializeToString()
        + struct_pb2.Value(string_value=text).SerializeToString()
    )
    assert (message.double(2), message.text(3)) == (number, text)


def test_nested_and_repeated_messages_are_found():
    file = descriptor_pb2.FileDescriptorProto(name="f")
    file.message_type.add(name="A").field.add(name="a", number=7)
    file.message_type.add(name="B")
    outer = wire.decode(file.SerializeToString())
    assert [inner.text(1) for inner in outer.messages(4)] == ["A", "B"]
    assert outer.messages(4)[0].message(2).integer(3) == 7


def test_absent_fields_read_as_zero_or_empty():
    message = wire.decode(b"")
    assert message.integer(1) == 0
    assert message.double(1) == 0.0
    assert message.text(1) == ""
    assert message.message(1) == message
    assert message.messages(1) == ()


def test_the_last_of_several_values_counts():
    assert wire.decode(wire.encode((1, 5), (2, "x"), (1, 6))).integer(1) == 6


def test_fields_of_unknown_number_and_four_byte_values_are_skipped():
    data = wire.encode((99, "later")) + b"\x25" + struct.pack("<f", 1.5)
    assert wire.decode(data + wire.encode((1, 3))).integer(1) == 3


def test_text_that_is_not_utf8_is_replaced_and_never_raises():
    assert wire.decode(wire.encode((1, b"a\xff"))).text(1) == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x08", id="number missing"),
        pytest.param(b"\x08\x80", id="number cut"),
        pytest.param(b"\x80", id="key cut"),
        pytest.param(b"\x09\x00\x00", id="double cut"),
        pytest.param(b"\x0a\x05abc", id="bytes cut"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="huge length"),
        pytest.param(b"\x08" + b"\x80" * 10 + b"\x01", id="number too long"),
        pytest.param(b"\x0b", id="group"),
        pytest.param(b"\x00\x01", id="field 0"),
    ],
)
def test_data_that_is_cut_or_not_protobuf_is_an_error(data):
    with pytest.raises(ValueError, match=r"cut short|longer|wire type|number 0"):
        wire.decode(data)


def test_a_field_of_another_type_is_an_error():
    with pytest.raises(ValueError, match="field 1 is not of the wanted type"):
        wire.decode(wire.encode((1, "text"))).integer(1)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_value_error(data):
    try:
        message = wire.decode(data)
    except ValueError:
        return
    assert isinstance(message, wire.Message)
