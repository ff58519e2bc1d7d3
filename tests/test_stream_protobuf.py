"""The reader of protobuf's wire format against the official one."""

from __future__ import annotations

import pytest
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from stream.recording.protobuf import Fields

UINT32 = st.integers(0, (1 << 32) - 1)


@given(st.text(), st.binary(), st.text(), st.integers(0, 253402300799), st.integers(0, 999_999_999))
def test_it_reads_what_the_official_one_writes(frame: str, data: bytes, kind: str, seconds: int, nanos: int) -> None:
    message = CompressedImage(frame_id=frame, data=data, format=kind)
    message.timestamp.seconds, message.timestamp.nanos = seconds, nanos
    fields = Fields(memoryview(message.SerializeToString()))
    assert (fields.text(4), bytes(fields.data(2)), fields.text(3)) == (frame, data, kind)
    timestamp = Fields(fields.data(1))
    assert (timestamp.integer(1), timestamp.integer(2)) == (seconds, nanos)


@given(UINT32, UINT32, UINT32)
def test_it_reads_fixed_numbers(width: int, height: int, step: int) -> None:
    fields = Fields(memoryview(RawImage(width=width, height=height, step=step).SerializeToString()))
    assert (fields.integer(2), fields.integer(3), fields.integer(5)) == (width, height, step)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read_as_the_official_one_does(data: bytes) -> None:
    try:
        fields = Fields(memoryview(data))
        message = CompressedImage.FromString(data)
    except (ValueError, DecodeError):
        return  # each of them is stricter in something: groups, field zero, text that is not UTF-8
    assert bytes(fields.data(2)) == message.data
    assert fields.text(3) == message.format


def test_a_field_that_is_left_out_or_of_another_kind_is_zero_or_empty() -> None:
    fields = Fields(memoryview(b"\x10\x05\x1a\x01x"))
    assert (fields.integer(2), fields.text(3)) == (5, "x")
    assert (bytes(fields.data(2)), fields.integer(3)) == (b"", 0)
    assert (fields.integer(9), bytes(fields.data(9)), 9 in fields, 2 in fields) == (0, b"", False, True)


@pytest.mark.parametrize("data", [b"\x12", b"\x12\x05x", b"\x80" * 11, b"\x13", b"\x15\x00", b"\x08"])
def test_a_message_that_is_cut_off_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Fields(memoryview(data))


def test_a_message_of_very_many_fields_is_refused_before_they_take_memory() -> None:
    different = b"".join(bytes([0x80 | field << 3 & 0x78, field >> 4, 1]) for field in range(16, 80))
    assert Fields(memoryview(different)).integer(79) == 1
    for data in (different + b"\x08\x01", b"\x08\x01" * (1 << 20)):
        with pytest.raises(ValueError, match="at most 64 fields"):
            Fields(memoryview(data))
