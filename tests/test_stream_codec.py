"""Images to messages and back; and that no message, however broken, does anything but be refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import lz4.block
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.codec import decode, encode_pair, from_parts, to_parts
from stream.errors import MalformedMessage
from stream.image import MAX_EYE_BYTES, MAX_SIDE, Image, jpeg_shape
from stream.pair import REASONS, Codec, EncodedPair

EPOCH = "0123456789abcdef" * 2


def scene(channels: int, *, height: int = 40, width: int = 56, seed: int = 0) -> Image:
    """A smooth random image: JPEG keeps it, and no two seeds look alike."""
    shape = (height, width, 3) if channels == 3 else (height, width)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 4.0)
    return np.asarray(255 * (smooth - smooth.min()) / np.ptp(smooth), np.uint8)


def encoded(left: Image | bytes, right: Image | bytes, *, codec: Codec = "jpeg", seq: int = 0) -> EncodedPair:
    return encode_pair(left, right, device="baby", epoch=EPOCH, seq=seq, left_ns=1, right_ns=2, codec=codec)


def jpeg(image: Image, *flags: int) -> bytes:
    return cv2.imencode(".jpg", image, list(flags))[1].tobytes()


def altered(pair: EncodedPair, left: bytes | None = None, **header: object) -> EncodedPair:
    """The pair with another left eye and header fields, under a checksum that is right for it."""
    left = pair.left if left is None else left
    crc = zlib.crc32(pair.right, zlib.crc32(left))
    return EncodedPair(msgspec.structs.replace(pair.header, crc=crc, **header), left, pair.right)


COLOUR = encoded(scene(3, seed=1), scene(3, seed=2))
GREY = encoded(scene(1, seed=1), scene(1, seed=2), codec="lz4")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pair_sent_as_lz4_comes_back_bit_for_bit_with_left_and_right_in_place(channels: int) -> None:
    left, right = scene(channels, seed=1), scene(channels, seed=2)
    pair = decode(from_parts(to_parts(encoded(left, right, codec="lz4"))))
    np.testing.assert_array_equal(pair.left, left)
    np.testing.assert_array_equal(pair.right, right)
    assert pair.left.flags.writeable


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pair_sent_as_jpeg_comes_back_close_with_left_and_right_in_place(channels: int) -> None:
    left, right = scene(channels, seed=1), scene(channels, seed=2)
    pair = decode(from_parts(to_parts(encoded(left, right))))
    assert pair.header.channels == channels
    for sent, got in ((left, pair.left), (right, pair.right)):
        assert got.shape == sent.shape
        assert np.abs(got.astype(int) - sent).mean() < 3.0
    assert np.abs(pair.left.astype(int) - right).mean() > 10.0


def test_the_channel_order_is_blue_green_red_from_end_to_end() -> None:
    blue = np.zeros((32, 32, 3), np.uint8)
    blue[..., 0] = 255
    seen = decode(encoded(blue, blue)).left.reshape(-1, 3).mean(axis=0)
    assert seen[0] > 240
    assert max(seen[1:]) < 15


def test_a_view_into_a_side_by_side_image_is_encoded_like_its_copy() -> None:
    both = scene(3, width=112)
    left, right = both[:, :56], both[:, 56:]
    for codec in ("jpeg", "lz4"):
        assert encoded(left, right, codec=codec) == encoded(left.copy(), right.copy(), codec=codec)


def test_a_cameras_own_jpeg_is_forwarded_untouched_with_its_padding() -> None:
    left, right = jpeg(scene(3, seed=1)) + bytes(700), jpeg(scene(3, seed=2))
    pair = from_parts(to_parts(encoded(left, right)))
    assert (pair.left, pair.right) == (left, right)
    assert decode(pair).left.shape == (40, 56, 3)


def test_real_camera_images_travel_and_are_read_as_opencv_reads_them(shared_data: Path) -> None:
    files = sorted((shared_data / "stereo").rglob("*.jpg"))[:4] or sorted((shared_data / "stereo").rglob("*.png"))[:4]
    for path in files:
        image = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.uint8)
        eye = path.read_bytes() if path.suffix == ".jpg" else image
        pair = encoded(eye, eye, codec="jpeg" if path.suffix == ".jpg" else "lz4")
        np.testing.assert_array_equal(decode(from_parts(to_parts(pair))).left, image)
    assert files


def test_an_exif_rotation_does_not_swap_height_and_width() -> None:
    exif = (
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: turn by 90 degrees
    )
    plain = jpeg(scene(3))
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    np.testing.assert_array_equal(decode(encoded(turned, turned)).left, decode(encoded(plain, plain)).left)


def test_eyes_of_different_sizes_are_refused_with_both_sizes_named() -> None:
    with pytest.raises(ValueError, match="left is 56x40 colour and right 20x10 grey"):
        encoded(scene(3), jpeg(scene(1, height=10, width=20)))


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)],
)
def test_an_image_that_is_not_uint8_grey_or_colour_is_refused(image: Image) -> None:
    with pytest.raises(ValueError, match="image"):
        encoded(image, image)


def test_a_cameras_jpeg_cannot_travel_as_lz4_nor_a_header_that_every_receiver_would_refuse() -> None:
    with pytest.raises(ValueError, match="lz4"):
        encoded(jpeg(scene(1)), jpeg(scene(1)), codec="lz4")
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_pair(scene(1), scene(1), device="no spaces", epoch=EPOCH, seq=0, left_ns=1, right_ns=1)
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_pair(scene(1), scene(1), device="baby", epoch=EPOCH, seq=1 << 70, left_ns=1, right_ns=1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("progressive", [0, 1])
def test_the_shape_of_a_jpeg_is_read_without_decoding_it(channels: int, progressive: int) -> None:
    data = jpeg(scene(channels, height=33, width=71), cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    assert jpeg_shape(data) == (33, 71, channels)


def test_a_jpeg_cut_off_anywhere_is_refused() -> None:
    data = jpeg(scene(3))
    for length in range(len(data)):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg_shape(data[:length])


def test_a_jpeg_with_thousands_of_scans_is_refused() -> None:
    data = jpeg(scene(1), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    with pytest.raises(ValueError, match="scan"):
        jpeg_shape(data[:-2] + b"\xff\xda\x00\x02" * 1000 + data[-2:])


def test_data_that_declares_another_size_than_its_header_is_never_decompressed() -> None:
    huge = bytearray(COLOUR.left)
    at = huge.index(b"\xff\xc0")
    huge[at + 5 : at + 9] = struct.pack(">HH", MAX_SIDE, MAX_SIDE)
    with pytest.raises(MalformedMessage, match="8192x8192"):
        decode(altered(COLOUR, bytes(huge)))
    with pytest.raises(MalformedMessage, match="56x40 colour"):
        decode(altered(COLOUR, height=41))
    with pytest.raises(MalformedMessage, match="cannot hold"):  # refused before 64 MiB are taken
        decode(altered(GREY, b"\x00" * 100, height=MAX_SIDE, width=MAX_SIDE))
    longer = lz4.block.compress(bytes(40 * 56 + 1), store_size=False)
    with pytest.raises(MalformedMessage, match="lz4"):
        decode(altered(GREY, longer))
    shorter = lz4.block.compress(bytes(40 * 56 - 1), store_size=False)
    with pytest.raises(MalformedMessage, match="2239 bytes"):
        decode(altered(GREY, shorter))


def sealed(header: bytes) -> bytes:
    """A header part with the checksum that belongs to it."""
    return header + zlib.crc32(header).to_bytes(4)


def _reason(parts: list[bytes]) -> str:
    with pytest.raises(MalformedMessage) as caught:
        from_parts(parts)
    return caught.value.reason


def test_a_message_is_refused_under_the_reason_that_is_counted() -> None:
    topic, header, left, right = to_parts(COLOUR)
    assert _reason([]) == "parts"
    assert _reason([topic, header, left]) == "parts"
    assert _reason([b"pear", header, left, right]) == "parts"
    assert _reason([topic, header, left, b""]) == "size"
    assert _reason([topic, header, bytes(MAX_EYE_BYTES + 1), right]) == "size"
    assert _reason([topic, bytes(200_000), left, right]) == "size"
    assert _reason([topic, sealed(b"\x91" * 500), left, right]) == "header"
    assert _reason([topic, sealed(msgspec.msgpack.encode([9, "of", {"the": "future"}])), left, right]) == "version"
    assert (
        _reason([topic, msgspec.msgpack.encode([1, "of", "the past, which had no checksum"]), left, right]) == "version"
    )
    assert _reason([topic, header, right, left]) == "crc"


@given(st.integers(0, 1 << 16))
def test_no_flipped_bit_makes_a_header_another_header(place: int) -> None:
    topic, header, left, right = to_parts(COLOUR)
    flipped = bytearray(header)
    flipped[place // 8 % len(header)] ^= 1 << place % 8
    assert _reason([topic, bytes(flipped), left, right]) in ("crc", "version")


def test_parts_may_be_views_into_a_receive_buffer() -> None:
    assert from_parts([memoryview(part) for part in to_parts(COLOUR)]) == COLOUR


mutations = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6)


def mutated(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Bytes set at places, then the end cut off: what a bad link and a bad mind do to a message."""
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(data)] = value
    return bytes(changed[: len(changed) - cut])


T = TypeVar("T")


def refusal(read: Callable[[], T]) -> tuple[str | None, T | None]:
    """The reason under which a message is refused, or what was read; any other exception fails the test."""
    try:
        return None, read()
    except MalformedMessage as error:
        return error.reason, None


@settings(max_examples=300)
@given(st.sampled_from([COLOUR, GREY]), st.integers(0, 3), mutations, st.integers(0, 3))
def test_a_damaged_message_is_the_message_or_is_refused(
    pair: EncodedPair, place: int, changes: list[tuple[int, int]], cut: int
) -> None:
    parts = to_parts(pair)
    parts[place] = mutated(parts[place], changes, cut)
    reason, got = refusal(lambda: from_parts(parts))
    assert reason in REASONS if got is None else got == pair


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=600), max_size=6), st.booleans())
def test_random_parts_are_refused_and_nothing_else(parts: list[bytes], with_topic: bool) -> None:
    with pytest.raises(MalformedMessage):
        from_parts([b"pair", *parts] if with_topic else parts)


@settings(max_examples=200)
@given(st.sampled_from([COLOUR, GREY]), mutations, st.integers(0, 40))
def test_damage_under_a_right_checksum_gives_an_image_of_the_declared_size_or_is_refused(
    pair: EncodedPair, changes: list[tuple[int, int]], cut: int
) -> None:
    reason, got = refusal(lambda: decode(altered(pair, mutated(pair.left, changes, cut))))
    assert reason == "image" if got is None else got.left.shape[:2] == (40, 56)


@settings(max_examples=300)
@given(st.binary(max_size=200), mutations, st.booleans())
def test_any_bytes_have_a_bounded_jpeg_shape_or_a_value_error(
    tail: bytes, changes: list[tuple[int, int]], real: bool
) -> None:
    data = mutated(COLOUR.left, changes, 0) if real else b"\xff\xd8\xff" + tail + b"\xff\xd9"
    try:
        height, width, channels = jpeg_shape(data)
    except ValueError:
        return
    assert 1 <= height <= MAX_SIDE
    assert 1 <= width <= MAX_SIDE
    assert channels in (1, 3)


def test_a_pair_keeps_the_bytes_of_the_header_that_it_was_received_with() -> None:
    """A foreign encoder may write a number in more bytes than it needs; what is stored and sent on is what was received."""
    topic, _, left, right = to_parts(COLOUR)
    data = msgspec.msgpack.encode(COLOUR.header)
    at = data.index(b"\x02", 0, 4)
    longer = data[:at] + b"\xcd\x00\x02" + data[at + 1 :]
    part = longer + zlib.crc32(longer).to_bytes(4)
    received = from_parts([topic, part, left, right])
    assert received == COLOUR
    assert to_parts(received)[1] == part
    assert to_parts(EncodedPair(COLOUR.header, left, right)) == to_parts(COLOUR)
