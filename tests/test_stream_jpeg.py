"""What a JPEG declares is read without decoding it; one that costs more work than its bytes can pay for is refused."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.codec import decode, encode_pair
from stream.image import MAX_JPEG_SCANS, MAX_JPEG_SEGMENTS, MAX_SIDE, Image, TooCostly, check_file, jpeg_shape

EOI = b"\xff\xd9"


def jpeg(image: Image, *, progressive: bool = False, **flags: int) -> bytes:
    words = {"PROGRESSIVE": int(progressive), "QUALITY": 92, **{name.upper(): value for name, value in flags.items()}}
    flat = [word for name, value in words.items() for word in (getattr(cv2, f"IMWRITE_JPEG_{name}"), value)]
    return cv2.imencode(".jpg", image, flat)[1].tobytes()


def noise(*shape: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def black(*shape: int) -> Image:
    return np.zeros(shape, np.uint8)


def declaring(data: bytes, height: int, width: int) -> bytes:
    """The same file with another size in its frame header."""
    at = max(data.find(b"\xff" + bytes([kind])) for kind in (0xC0, 0xC1, 0xC2))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def scans(data: bytes) -> list[bytes]:
    """What comes before the first scan, then each scan with the tables before it, without the end."""
    begins = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    ends = [next(p for p in range(b + 2, len(data)) if data[p] == 0xFF and data[p + 1] not in FILLED) for b in begins]
    return [data[: begins[0]], *(data[a:b] for a, b in itertools.pairwise([begins[0], *ends]))]


FILLED = (0, 0xFF, *range(0xD0, 0xD8))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 8), (17, 33, 3), (120, 161, 3), (65, 7)])
@pytest.mark.parametrize("sampling", [0x411111, 0x221111, 0x211111, 0x121111, 0x111111])
def test_every_honest_file_has_its_shape(shape: tuple[int, ...], sampling: int, progressive: bool) -> None:
    for image, quality, interval, optimised in itertools.product((noise, black), (1, 100), (0, 1, 7), (0, 1)):
        data = jpeg(
            image(*shape),
            progressive=progressive,
            quality=quality,
            rst_interval=interval,
            optimize=optimised,
            sampling_factor=sampling,
        )
        assert jpeg_shape(data) == (*shape, 1)[:3]


@pytest.mark.parametrize("progressive", [False, True])
def test_the_emptiest_honest_picture_of_the_largest_size_is_read(progressive: bool) -> None:
    data = jpeg(black(1024, MAX_SIDE, 3), progressive=progressive, quality=1, optimize=1)
    assert jpeg_shape(data) == (1024, MAX_SIDE, 3)


def test_an_extended_sequential_file_is_read_and_decoded_like_the_baseline_one() -> None:
    baseline = jpeg(noise(40, 56, 3))
    extended = baseline.replace(b"\xff\xc0", b"\xff\xc1", 1)
    assert jpeg_shape(extended) == (40, 56, 3)
    pairs = [
        decode(encode_pair(data, data, device="d", epoch="0" * 32, seq=0, left_ns=0, right_ns=0))
        for data in (baseline, extended)
    ]
    np.testing.assert_array_equal(pairs[0].left, pairs[1].left)


@pytest.mark.parametrize("rest", [b"\0" * 700, b"\xff" * 700, b"ftypmp42" * 9999, b"\xff\xd8\xff\xe1\0\0", b"\n", EOI])
def test_bytes_behind_the_end_do_not_matter(rest: bytes) -> None:
    for data in (jpeg(noise(40, 56, 3)), jpeg(noise(40, 56), progressive=True)):
        assert jpeg_shape(data + rest) == jpeg_shape(data)
        pair = encode_pair(data + rest, data + rest, device="d", epoch="0" * 32, seq=0, left_ns=0, right_ns=0)
        assert pair.left == data + rest
        assert decode(pair).left.shape[:2] == (40, 56)


def test_a_thumbnail_inside_neither_ends_the_file_nor_counts_as_its_scans() -> None:
    small, data = jpeg(noise(16, 16, 3)), jpeg(noise(40, 56, 3))
    app = b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small
    assert jpeg_shape(data[:2] + app * 40 + data[2:]) == (40, 56, 3)
    with pytest.raises(ValueError, match="cut off"):
        jpeg_shape(data[:2] + app + data[2:-2])


def test_fill_bytes_before_a_marker_are_no_part_of_it() -> None:
    first, *rest = scans(jpeg(noise(40, 56, 3)))
    assert jpeg_shape(first[:2] + b"\xff\xff" + first[2:] + b"".join(rest) + b"\xff\xff" + EOI) == (40, 56, 3)


@pytest.mark.parametrize("kind", ["baseline", "extended", "progressive", "grey"])
@pytest.mark.parametrize(("height", "width"), [(MAX_SIDE, MAX_SIDE), (8, MAX_SIDE), (MAX_SIDE, 8), (1024, 1024)])
def test_a_size_that_the_data_cannot_hold_is_refused(kind: str, height: int, width: int) -> None:
    small = jpeg(black(16, 16) if kind == "grey" else black(16, 16, 3), progressive=kind == "progressive")
    small = small.replace(b"\xff\xc0", b"\xff\xc1") if kind == "extended" else small
    for data in (small, small[:-2] + b"\xff\xe1\xff\xff" + bytes(65533) + EOI, small + bytes(1 << 20)):
        with pytest.raises(ValueError, match=f"cannot hold {width}x{height}"):
            jpeg_shape(declaring(data, height, width))


@pytest.mark.parametrize("image", [noise(48, 64, 3), noise(48, 64)])
def test_a_scan_that_comes_again_or_is_missing_is_refused(image: Image) -> None:
    for progressive in (False, True):
        head, *parts = scans(jpeg(image, progressive=progressive))
        assert jpeg_shape(head + b"".join(parts) + EOI)
        for index, part in enumerate(parts):
            with pytest.raises(ValueError, match="more than once"):
                jpeg_shape(head + b"".join(parts) + part + EOI)
            with pytest.raises(ValueError, match=r"cut off|more than once"):
                jpeg_shape(head + b"".join(parts[:index]) + EOI)
            with pytest.raises(ValueError, match=r"cut off|more than once"):
                jpeg_shape(head + b"".join(parts[:index] + parts[index + 1 :]) + EOI)


def scan_of(first: int, last: int, bits: int, data: bytes = b"\0") -> bytes:
    """A scan of the only component of a grey file."""
    return b"\xff\xda\0\x08\x01\x01\0" + bytes([first, last, bits]) + data


GREY = scans(jpeg(black(8, 8), progressive=True))[0]


@pytest.mark.parametrize(
    ("sent", "reads"),
    [
        ([(0, 0, 0), (1, 63, 0)], True),
        ([(0, 0, 2), (1, 63, 1), (0, 0, 0x21), (1, 63, 0x10), (0, 0, 0x10)], True),
        ([(0, 0, 0), *((k, k, 0) for k in range(1, 64))], False),  # as many scans as coefficients
        ([(0, 0, 0), *((k, k, 0) for k in range(1, 20)), (20, 63, 0)], False),  # more of them than any encoder makes
        ([(0, 0, 5), (1, 63, 0)], False),  # the lower bits never come
        ([(0, 0, 2), (1, 63, 0), (0, 0, 0x20)], False),  # two bits in one refinement
        ([(0, 0, 0), (1, 62, 0)], False),
        ([(0, 63, 0)], False),
        ([(0, 0, 0), (1, 64, 0)], False),
        ([(0, 0, 0), (9, 1, 0), (1, 63, 0)], False),
        ([(0, 0, 0), (1, 40, 0), (40, 63, 0)], False),
        ([], False),
    ],
)
def test_the_progression_of_scans_is_that_of_the_standard(sent: list[tuple[int, int, int]], reads: bool) -> None:
    data = GREY + b"".join(scan_of(*scan) for scan in sent) + EOI
    if reads:
        assert jpeg_shape(data) == (8, 8, 1)
    else:
        with pytest.raises(ValueError, match="JPEG"):
            jpeg_shape(data)


@pytest.mark.parametrize(("data_bytes", "is_enough"), [(128, True), (127, False)])
def test_a_size_is_held_by_two_bits_a_block_or_by_one_where_more_scans_follow(data_bytes: int, is_enough: bool) -> None:
    baseline, scan = scans(jpeg(black(8, 8)))
    scan_head = scan[: 2 + int.from_bytes(scan[2:4])]
    several = scan_of(0, 0, 0, bytes(data_bytes)) + scan_of(1, 63, 0)
    for data, width in (baseline + scan_head + bytes(data_bytes) + EOI, 4096), (GREY + several + EOI, 8192):
        if is_enough:
            assert jpeg_shape(declaring(data, 8, width)) == (8, width, 1)
        else:
            with pytest.raises(ValueError, match="cannot hold"):
                jpeg_shape(declaring(data, 8, width))


@pytest.mark.parametrize(("data_bytes", "is_enough"), [(60, True), (59, False)])
def test_empty_blocks_cost_a_few_bits_in_each_scan_too(data_bytes: int, is_enough: bool) -> None:
    data = GREY + scan_of(0, 0, 0, bytes(MAX_SIDE**2 // 512)) + scan_of(1, 63, 0, bytes(data_bytes)) + EOI
    if is_enough:
        assert jpeg_shape(declaring(data, MAX_SIDE, MAX_SIDE)) == (MAX_SIDE, MAX_SIDE, 1)
    else:
        with pytest.raises(ValueError, match=f"{data_bytes} bytes of a scan cannot hold"):
            jpeg_shape(declaring(data, MAX_SIDE, MAX_SIDE))


@pytest.mark.parametrize(
    ("names", "data_bytes", "is_enough"),
    [([1, 2, 3], 384, True), ([1, 2, 3], 383, False), ([1], 128, True), ([1], 127, False)],
)
def test_scans_of_one_component_have_no_blocks_beyond_the_picture(
    names: list[int], data_bytes: int, is_enough: bool
) -> None:
    """Luma of 2x2 blocks a unit, eight rows high: half of the blocks of a joint scan lie below the picture."""
    head = declaring(scans(jpeg(black(8, 8, 3), sampling_factor=0x221111))[0], 8, 4096)
    data = head + joint_scan(names, bytes(data_bytes))
    for rest in {1, 2, 3} - set(names):
        data += joint_scan([rest], bytes(64))
    if is_enough:
        assert jpeg_shape(data + EOI) == (8, 4096, 3)
    else:
        with pytest.raises(ValueError, match="cannot hold"):
            jpeg_shape(data + EOI)


def joint_scan(names: list[int], data: bytes, first: int = 0, last: int = 63) -> bytes:
    """A scan of these components."""
    body = bytes([len(names), *itertools.chain.from_iterable((name, 0) for name in names), first, last, 0])
    return b"\xff\xda" + struct.pack(">H", len(body) + 2) + body + data


def test_a_file_has_no_more_scans_than_allowed_even_if_each_sends_something_new() -> None:
    data = scans(jpeg(black(8, 8, 3), progressive=True, sampling_factor=0x111111))[0]
    ranges = [(0, 0), *((k, k) for k in range(1, 11)), (11, 63)]
    data += b"".join(joint_scan([name], b"\0", *each) for name in (1, 2, 3) for each in ranges)
    with pytest.raises(ValueError, match=f"more than {MAX_JPEG_SCANS} scans"):
        jpeg_shape(data + EOI)


def test_a_fill_byte_before_a_restart_does_not_end_the_scan() -> None:
    data = jpeg(noise(24, 24, 3), rst_interval=1)
    assert data.count(b"\xff\xd0") > 0
    assert jpeg_shape(data.replace(b"\xff\xd0", b"\xff\xff\xd0")) == (24, 24, 3)


def test_scans_and_segments_are_bounded_before_anything_is_decoded() -> None:
    head, scan, *_ = scans(jpeg(noise(8, 8)))
    with pytest.raises(ValueError, match=f"more than {MAX_JPEG_SCANS} scans|more than once"):
        jpeg_shape(head + scan * 9999 + EOI)
    with pytest.raises(ValueError, match=f"within {MAX_JPEG_SEGMENTS} segments"):
        jpeg_shape(head[:2] + b"\xff\xfe\0\x02" * 9999 + head[2:] + scan + EOI)
    with pytest.raises(ValueError, match="more than one frame"):
        jpeg_shape(head + head[2:] + scan + EOI)
    for wrong in (head + EOI, b"\xff\xd8" + scan + EOI, head.replace(b"\xff\xc0", b"\xff\xc9") + scan + EOI):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg_shape(wrong)


def png(height: int, width: int) -> bytes:
    data = bytearray(cv2.imencode(".png", black(8, 8, 3))[1].tobytes())
    data[16:24] = struct.pack(">II", width, height)
    return bytes(data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:])


def bmp(height: int, width: int) -> bytes:
    data = bytearray(cv2.imencode(".bmp", black(8, 8, 3))[1].tobytes())
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def webp(kind: bytes, height: int, width: int) -> bytes:
    """The beginning of a WebP file of this kind."""
    body = {
        b"VP8 ": bytes(4) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width | 0x4000, height | 0x8000),
        b"VP8L": bytes(4) + b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little"),
        b"VP8X": bytes(8) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
    }[kind]
    return b"RIFF" + bytes(4) + b"WEBP" + kind + body


KINDS = [png, bmp, *(partial(webp, kind) for kind in (b"VP8 ", b"VP8L", b"VP8X"))]


@pytest.mark.parametrize("kind", KINDS, ids=["png", "bmp", "lossy", "lossless", "extended"])
def test_a_file_that_declares_a_larger_side_than_can_be_sent_is_not_decoded(kind: Callable[[int, int], bytes]) -> None:
    for height, width in (MAX_SIDE, 3), (3, MAX_SIDE):
        check_file(kind(height, width))
        with pytest.raises(TooCostly, match=f"{width + (width > 3)}x{height + (height > 3)} pixels"):
            check_file(kind(height + (height > 3), width + (width > 3)))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tiff", ".jpg"])
@pytest.mark.parametrize("shape", [(5, 9, 3), (9, 5)])
def test_honest_files_are_decoded_whatever_they_are(suffix: str, shape: tuple[int, ...]) -> None:
    check_file(cv2.imencode(suffix, noise(*shape))[1].tobytes())


def test_the_older_header_of_a_bmp_has_shorter_numbers() -> None:
    check_file(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 640, 480, 1, 24))
    with pytest.raises(TooCostly, match="640x9000"):
        check_file(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 640, 9000, 1, 24))


def test_a_costly_jpeg_is_refused_and_other_damage_is_left_to_the_decoder() -> None:
    data = jpeg(noise(40, 56, 3))
    for harmless in (data[:-2], data[:200], b"\xff\xd8\xff", b"", b"RIFF", b"no image"):
        check_file(harmless)
    with pytest.raises(TooCostly):
        check_file(declaring(data, 8000, 8000))


@settings(max_examples=200)
@given(st.integers(0, 1 << 20), st.integers(0, 255), st.booleans())
def test_any_damage_is_a_shape_or_one_error(place: int, value: int, progressive: bool) -> None:
    data = bytearray(jpeg(noise(24, 24, 3), progressive=progressive))
    data[place % len(data)] = value
    try:
        height, width, channels = jpeg_shape(bytes(data))
    except ValueError:
        return
    assert 1 <= min(height, width) <= max(height, width) <= MAX_SIDE
    assert channels in (1, 3)
