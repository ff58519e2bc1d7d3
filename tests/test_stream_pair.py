"""The datum and its header: what is valid, and the bytes that every version has to keep reading."""

from __future__ import annotations

import msgspec
import pytest

from stream.image import MAX_SIDE
from stream.pair import Header

EPOCH = "0123456789abcdef" * 2
HEADER = Header(
    device="baby", epoch=EPOCH, seq=7, left_ns=1_000, right_ns=1_250, height=2, width=3, channels=1, codec="lz4", crc=9
)


def _refused(**changes: object) -> str:
    header = msgspec.structs.replace(HEADER, **changes)
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.msgpack.decode(msgspec.msgpack.encode(header), type=Header)
    return str(caught.value)


def test_skew_is_right_minus_left_and_the_name_tells_device_epoch_and_number() -> None:
    assert HEADER.skew_ns == 250
    assert HEADER.name == "baby/01234567/7"


def test_the_wire_form_of_a_header_is_these_bytes() -> None:
    """A change here breaks every device in the field: it needs a new one of WIRE_VERSIONS."""
    golden = (
        b"\xdc\x00\x10\x02\xa4baby\xd9\x20"
        + EPOCH.encode()
        + b"\x07\xcd\x03\xe8\xcd\x04\xe2\x00\xc0\x02\x03\x01\xa3lz4\xa3new\x00\x00\x09"
    )
    assert msgspec.msgpack.encode(HEADER) == golden
    assert msgspec.msgpack.decode(golden, type=Header) == HEADER


@pytest.mark.parametrize("device", ["", "x" * 65, "../etc", "a b", "-rf", "é", 7])
def test_a_device_name_that_is_not_a_plain_label_is_refused(device: object) -> None:
    assert "$[1]" in _refused(device=device)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", "0" * 31),
        ("epoch", "g" * 32),
        ("seq", -1),
        ("left_ns", 1 << 63),
        ("clock_error_ns", -1),
        ("height", 0),
        ("width", MAX_SIDE + 1),
        ("channels", 2),
        ("codec", "png"),
        ("kept", "maybe"),
        ("suppressed", -1),
        ("crc", 1 << 32),
        ("version", 3),
    ],
)
def test_a_field_out_of_its_range_is_refused(field: str, value: object) -> None:
    assert _refused(**{field: value})


def test_a_header_with_a_field_too_many_or_too_few_is_refused() -> None:
    fields = msgspec.to_builtins(HEADER)
    for wrong in (fields[:-1], [*fields, 0]):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(wrong), type=Header)
