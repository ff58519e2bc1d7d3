"""Recordings as people have them: films of two clocks, names that are times, pixels of other depths."""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from device.camera import BadShot, Camera, CameraError, CameraSettings, EyeImage, Shot, with_equal_channels
from device.cameras.open import open_camera
from device.cameras.recorded import names
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from stream.codec import decode
from stream.image import jpeg_orientation
from stream.recording.levels import Levels, Sample

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


def grey(level: int) -> NDArray[np.uint8]:
    """A gradient of 64x48 around a level."""
    return np.asarray(np.clip(level + np.arange(64) // 8, 0, 255), np.uint8)[None].repeat(48, axis=0)


def write_film(path: Path, times_ms: list[int], *, level: int = 0) -> str:
    """Frames whose level is a tenth of their time since the film's clock began, plus `level`."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base, stream.bit_rate = Fraction(1, 1000), 4_000_000
        for at_ms in times_ms:
            pixels = grey(at_ms // 10 + level)[..., None].repeat(3, axis=2)
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            frame.pts, frame.time_base = at_ms, Fraction(1, 1000)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return str(path)


def write_images(folder: Path, named: Mapping[str, NDArray[Any]]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in named.items():
        assert cv2.imwrite(str(folder / name), image)
    return str(folder)


def shots_of(spec: str, settings: CameraSettings | None = None) -> list[Shot | BadShot]:
    camera: Camera = open_camera(spec, settings or CameraSettings(start_ns=START_NS))
    return list(camera)


def times_ms(shots: list[Shot | BadShot]) -> list[tuple[int, int]]:
    good = [shot for shot in shots if isinstance(shot, Shot)]
    return [tuple(round((eye.captured_ns - START_NS) / MS) for eye in (shot.left, shot.right)) for shot in good]  # type: ignore[misc]


def level_of(eye: EyeImage) -> float:
    assert eye.pixels is not None
    return float(np.median(eye.pixels))


def test_films_of_two_rates_are_paired_by_time_and_what_is_left_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = write_film(tmp_path / "left.mkv", list(range(0, 2000, 100)))
    right = write_film(tmp_path / "right.mkv", list(range(0, 2000, 40)))
    shots = shots_of(f"video:{left},{right}")
    assert times_ms(shots) == [(at, at if at % 200 == 0 else at - 20) for at in range(0, 2000, 100)]
    for shot in shots:
        assert isinstance(shot, Shot)
        assert abs(level_of(shot.left) - level_of(shot.right)) < 8
    assert "left out: right 30 (0.040 s" in caplog.text


def test_a_film_that_starts_late_and_one_of_uneven_times_meet_where_their_clocks_agree(tmp_path: Path) -> None:
    left = write_film(tmp_path / "left.mkv", list(range(0, 1500, 100)))
    right = write_film(tmp_path / "right.mkv", [700, 800, 890, 1100, 1110, 1200])
    assert times_ms(shots_of(f"video:{left},{right}")) == [(0, 0), (100, 100), (200, 190), (400, 400), (500, 500)]


def test_films_of_clocks_that_never_meet_are_taken_as_begun_together_and_this_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = write_film(tmp_path / "left.mkv", [0, 100, 200])
    right = write_film(tmp_path / "right.mkv", [90_000, 90_100, 90_200])
    assert times_ms(shots_of(f"video:{left},{right}")) == [(0, 0), (100, 100), (200, 200)]
    assert "no time in common" in caplog.text


def join_films(path: Path, parts_ms: list[list[int]]) -> str:
    """One film, whose clock is that of each part in turn."""
    parts = [Path(write_film(path.with_suffix(f".{at}.ts"), part_ms)) for at, part_ms in enumerate(parts_ms)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return str(path)


def test_films_whose_clocks_begin_again_are_paired_throughout(tmp_path: Path) -> None:
    part_ms, longer_ms = list(range(0, 4000, 100)), list(range(20, 6000, 100))
    left = join_films(tmp_path / "left.ts", [part_ms, part_ms, part_ms])
    right = join_films(tmp_path / "right.ts", [part_ms, longer_ms, part_ms])
    shots = times_ms(shots_of(f"video:{left},{right}"))
    assert 116 <= len(shots) <= 120  # where one begins again, what waits for the other is left out
    assert {right_ms - left_ms for left_ms, right_ms in shots} == {0, 20}


def test_one_frame_of_a_wrong_time_costs_no_later_pair(tmp_path: Path) -> None:
    times = list(range(3000, 9000, 100))
    left = join_films(tmp_path / "left.ts", [times[:30], [0], times[30:]])
    right = join_films(tmp_path / "right.ts", [times])
    assert len(shots_of(f"video:{left},{right}")) >= len(times) - 2


@pytest.mark.parametrize(("eye", "said"), [("right", 500), ("left", -500)])
def test_a_film_that_began_late_without_a_word_about_it_is_told_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, eye: str, said: int
) -> None:
    late = write_film(
        tmp_path / "late.mp4", list(range(0, 1000, 100)), level=50
    )  # 50: what the other one shows 500 ms on
    whole = write_film(tmp_path / "whole.mp4", list(range(0, 1500, 100)))
    left, right = (whole, late) if eye == "right" else (late, whole)
    with caplog.at_level(logging.WARNING):
        shots_of(f"video:{left},{right}")
    assert f"if the {eye} eye began later and both ended together, it is --right-late-ms {said}" in caplog.text
    shots = shots_of(f"video:{left},{right}", CameraSettings(start_ns=START_NS, right_late_ms=said))
    assert len(shots) == 10
    for shot in shots:
        assert isinstance(shot, Shot)
        assert abs(level_of(shot.left) - level_of(shot.right)) < 8


def test_the_delay_of_the_right_film_can_be_told_and_so_can_the_tolerance(tmp_path: Path) -> None:
    left = write_film(tmp_path / "left.mkv", [0, 100, 200, 300])
    right = write_film(tmp_path / "right.mkv", [0, 100])
    late = CameraSettings(start_ns=START_NS, right_late_ms=190)
    shots = shots_of(f"video:{left},{right}", late)
    assert [shot.right.captured_ns - shot.left.captured_ns for shot in shots if isinstance(shot, Shot)] == [
        -10 * MS
    ] * 2
    tight = CameraSettings(start_ns=START_NS, right_late_ms=190, tolerance_ms=5)
    with pytest.raises(CameraError, match="holds no readable pair"):
        shots_of(f"video:{left},{right}", tight)


def test_a_film_that_stands_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    path = Path(write_film(tmp_path / "up.mp4", [0, 100, 200]))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the matrix of the track
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    (shot, *_) = shots_of(f"tb:{path}")
    assert isinstance(shot, Shot)
    assert shot.left.shape() == (32, 48, 3)


def test_a_frame_that_is_damaged_is_a_bad_shot_and_the_film_goes_on(tmp_path: Path) -> None:
    path = Path(write_film(tmp_path / "film.avi", list(range(0, 2000, 100))))
    data = bytearray(path.read_bytes())
    middle = data.index(b"00dc", len(data) // 2) + 8
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    shots = shots_of(f"tb:{path}")
    assert 15 < sum(isinstance(shot, Shot) for shot in shots) < 21


def test_numbers_stand_in_their_order_without_leading_zeros(tmp_path: Path) -> None:
    images = {f"frame{number}.png": grey(20 * number) for number in range(12)}
    shots = shots_of(f"dir:{write_images(tmp_path / 'l', images)},{write_images(tmp_path / 'r', images)}")
    levels = [level_of(shot.left) for shot in shots if isinstance(shot, Shot)]
    assert levels == sorted(levels)
    assert len(levels) == 12


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["left_0001.png", "left_0002.png"], ["right_0001.png", "right_0002.png"]),
        (["left1.jpg", "left2.jpg"], ["right01.jpeg", "right02.jpeg"]),
        (["a_1_leftImg8bit.png", "a_2_leftImg8bit.png"], ["a_1_rightImg8bit.png", "a_2_rightImg8bit.png"]),
        (["cam0_1.png", "cam0_2.png"], ["cam1_1.png", "cam1_2.png"]),
        (["1_L.png", "2_L.png"], ["1_R.png", "2_R.png"]),
        (["bright1.png", "bright2.png"], ["bright1.jpg", "bright2.JPG"]),
    ],
)
def test_names_that_differ_in_the_eye_or_the_suffix_belong_together(left: list[str], right: list[str]) -> None:
    assert names.matched(left, right) == list(zip(left, right, strict=True))
    assert names.matched(left[1:], [*right, "other.png"]) == [(left[1], right[1])]


def test_names_are_never_paired_by_their_position() -> None:
    assert names.matched(["img1.png", "img2.png"], ["image3.png", "image4.png"]) == []
    assert names.matched(["a.png", "b.png"], ["c.png", "d.png"]) == []


@given(st.integers(1_000_000_000_000, 4_000_000_000_000), st.sampled_from(["{}", "left_{}", "{}-cam0", "frame-{}-x1"]))
def test_a_time_since_1970_is_read_in_every_unit(at_ms: int, form: str) -> None:
    seconds, ms = divmod(at_ms, 1000)
    for text in (f"{at_ms}", f"{at_ms}000", f"{at_ms}000000", f"{seconds}.{ms:03}000", f"{seconds}_{ms:03}000000"):
        name = f"{form.format(text)}.png"
        assert names.times_ns([name]) == {name: at_ms * MS}


@pytest.mark.parametrize("name", ["0000000001.png", "frame12.png", "20231005123045123.png", "IMG_20231005_123045.jpg"])
def test_numbers_that_are_no_times_are_none(name: str) -> None:
    assert names.times_ns([name]) is None


def test_names_that_are_times_are_paired_by_the_nearest_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = grey(50)
    base = 1_790_000_000_000_000_000
    lefts = [0, 50, 150, 200]
    rights = [3, 53, 102, 203]
    left = write_images(tmp_path / "l", {f"{base + at * MS}.png": image for at in lefts})
    right = write_images(tmp_path / "r", {f"{(base + at * MS) / 1e9:.6f}.png": image for at in rights})
    found = times_ms(shots_of(f"dir:{left},{right}"))
    assert found == [(0, 3), (50, 53), (200, 203)]
    assert f"left 1 ({base + 150 * MS}.png), right 1" in caplog.text


@pytest.mark.parametrize("hidden", ["._0.png", ".trashed-1.png"])
def test_files_that_no_folder_view_shows_are_no_images(tmp_path: Path, hidden: str) -> None:
    left = write_images(tmp_path / "l", {"0.png": grey(30)})
    right = write_images(tmp_path / "r", {"0.png": grey(30)})
    (tmp_path / "l" / hidden).write_bytes(b"Mac OS X")
    assert [type(shot) for shot in shots_of(f"dir:{left},{right}")] == [Shot]


@pytest.mark.parametrize(
    ("left", "right", "times"),
    [
        ("mav0/cam0/data", "mav0/cam1/data", {"mav0/cam0/data.csv": "#timestamp [ns],filename\n7,0.png\n50000007,1.png\n",
                                              "mav0/cam1/data.csv": "#timestamp [ns],filename\n9,0.png\n50000009,1.png\n"}),
        ("image_0", "image_1", {"times.txt": "0.0\n5.0e-02\n1.0e-01\n"}),
        ("image_02/data", "image_03/data", {
            f"image_0{eye}/timestamps.txt": "2011-09-26 13:02:25.964389445\n2011-09-26 13:02:26.014389445\n" for eye in (2, 3)}),
    ],
)  # fmt: skip
def test_the_root_of_a_data_set_is_enough_and_its_times_are_used(
    tmp_path: Path, left: str, right: str, times: dict[str, str]
) -> None:
    for eye in (left, right):
        write_images(tmp_path / eye, {f"{number}.png": grey(40) for number in range(2)})
    for name, text in times.items():
        (tmp_path / name).write_text(text)
    assert times_ms(shots_of(f"dir:{tmp_path}")) == [(0, 0), (50, 50)]


@pytest.mark.parametrize("line", ["1e30", "9e9", "nan", "inf", "-5", "9999-12-31 23:59:59.9", "9" * 5000])
def test_a_line_that_no_header_can_carry_is_no_time(tmp_path: Path, line: str) -> None:
    table = f"#timestamp [ns],filename\n7,0.png\n{line},1.png\n"
    for left, right, times in (("image_0", "image_1", ("times.txt", f"0.0\n{line}\n")),
                               ("mav0/cam0/data", "mav0/cam1/data", ("mav0/cam0/data.csv", table))):  # fmt: skip
        root = tmp_path / left.partition("/")[0]
        for eye in (left, right):
            write_images(root / eye, {f"{number}.png": grey(40) for number in range(2)})
        (root / times[0]).write_text(times[1])
        assert times_ms(shots_of(f"dir:{root}")) == [(0, 0), (100, 100)]


def test_a_table_of_zero_bytes_gives_no_times(tmp_path: Path) -> None:
    for eye in ("mav0/cam0/data", "mav0/cam1/data"):
        write_images(tmp_path / eye, {f"{number}.png": grey(40) for number in range(2)})
    (tmp_path / "mav0/cam0/data.csv").write_bytes(bytes(200_000))
    assert times_ms(shots_of(f"dir:{tmp_path}")) == [(0, 0), (100, 100)]


def test_a_folder_that_is_no_root_is_refused_with_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="mav0/cam0/data"):
        open_camera(f"dir:{tmp_path}")
    (tmp_path / "dog").mkdir()
    with pytest.raises(CameraError, match=r"name that one, such as dir:.*/dog$"):
        open_camera(f"dir:{tmp_path}")


def test_counts_of_a_thermal_camera_are_seen_and_stay_the_same_over_the_recording(tmp_path: Path) -> None:
    counts = [np.asarray(7300 + 2 * grey(number * 20).astype(int), np.uint16) for number in range(8)]
    images = {f"{number}.png": image for number, image in enumerate(counts)}
    spec = f"dir:{write_images(tmp_path / 'l', images)},{write_images(tmp_path / 'r', images)}"
    shots = [shot for shot in shots_of(spec) if isinstance(shot, Shot)]
    levels = [level_of(shot.left) for shot in shots]
    steps = np.diff(levels)
    assert levels[-1] > 200
    assert steps[1:-1].min() > 0
    assert steps[1:-1].max() - steps[1:-1].min() <= 2, "one scale for all"
    told = [s for s in shots_of(spec, CameraSettings(levels=(0, 16383))) if isinstance(s, Shot)]
    assert level_of(told[0].left) == pytest.approx(7300 / 16383 * 255, abs=2)


def test_a_thermal_scene_is_no_junk(tmp_path: Path) -> None:
    scene = np.random.default_rng(0).integers(7300, 7810, (48, 64), np.uint16)
    spec = f"dir:{write_images(tmp_path / 'l', {'0.png': scene})},{write_images(tmp_path / 'r', {'0.png': scene})}"
    assert list(capture(shots_of(spec), Dedupe(DedupeConfig()), device="d", epoch="0" * 32))


def test_images_that_use_all_16_bits_keep_their_range() -> None:
    full = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(Levels.of([full]).apply(full), (full >> 8).astype(np.uint8))


def test_a_narrow_band_of_large_counts_is_stretched_and_borders_without_a_measurement_do_not_count() -> None:
    scene = np.random.default_rng(0).integers(40_000, 41_000, (64, 64), np.uint16)
    scene[:8] = 0
    levels = Levels.of([scene])
    assert (40_000 <= levels.black < 40_020, 40_980 < levels.white < 41_000) == (True, True)
    shown = levels.apply(scene)
    assert shown[:8].max() == 0
    assert shown[8:].std() > 60


def test_what_comes_after_a_sample_is_never_black_or_white_all_over(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    indoors, outdoors, sky = (rng.integers(low, low + 500, (64, 64), np.uint16) for low in (7300, 6500, 2000))
    levels = Levels.of([indoors])
    assert levels.apply(indoors).std() > 60
    assert levels.apply(outdoors).std() > 20
    assert levels.apply(indoors).std() > 20, "both have a place in wider levels"
    assert levels.apply(sky).std() > 60
    assert "--levels BLACK WHITE" in caplog.text
    stated = Levels(7300, 7800)
    assert stated.apply(outdoors).max() == 0, "as somebody said"


def test_a_sample_is_spread_over_what_comes_and_loads_no_more_than_it_needs() -> None:
    sample, loaded = Sample(), list[int]()
    for number in range(1000):
        sample.offer(lambda number=number: loaded.append(number) or np.full(4, number, np.uint16))  # type: ignore[misc,func-returns-value]
    kept = [int(image[0]) for image in sample.images]
    assert 8 <= len(kept) < 16
    assert kept == list(range(0, 1000, kept[1]))
    assert len(loaded) < 80


@pytest.mark.parametrize("kind", ["folder", "film"])
def test_both_eyes_have_one_scale(tmp_path: Path, kind: str) -> None:
    """The left eye sees a cold wall, the right one a warm wall: they must not look alike."""
    rng = np.random.default_rng(0)
    for eye, low in (("l", 7300), ("r", 7700)):
        images = [rng.integers(low, low + 100, (48, 64), np.uint16) for _ in range(3)]
        if kind == "folder":
            write_images(tmp_path / eye, {f"{number}.png": image for number, image in enumerate(images)})
            continue
        with av.open(str(tmp_path / f"{eye}.mkv"), "w") as film:
            stream = film.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "gray16le"
            for image in images:
                film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray16le")))
            film.mux(stream.encode())
    names_of = {"folder": f"dir:{tmp_path}/l,{tmp_path}/r", "film": f"video:{tmp_path}/l.mkv,{tmp_path}/r.mkv"}
    first = shots_of(names_of[kind])[0]
    assert isinstance(first, Shot)
    assert level_of(first.left) < 64
    assert level_of(first.right) > 192


@pytest.mark.parametrize(("pixels", "bits"), [("gray10le", 10), ("gray12le", 12), ("gray16le", 16)])
def test_the_levels_of_a_deep_film_are_stated_in_its_own_values(tmp_path: Path, pixels: str, bits: int) -> None:
    middle = np.full((48, 64), 1 << bits >> 1, np.uint16)
    with av.open(str(tmp_path / "both.mkv"), "w") as film:
        stream = film.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        film.mux(stream.encode(av.VideoFrame.from_ndarray(middle, format=pixels)))
        film.mux(stream.encode())
    levels = (0.0, float((1 << bits) - 1))
    [shot] = shots_of(f"sbs:{tmp_path / 'both.mkv'}", CameraSettings(levels=levels))
    assert isinstance(shot, Shot)
    assert level_of(shot.left) == pytest.approx(127.5, abs=1)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=30))
def test_any_depth_becomes_8_bits(values: list[float]) -> None:
    image = np.array(values, np.float32)[None]
    assert Levels.of([image]).apply(image).dtype == np.uint8


def test_a_grey_eye_beside_one_with_colour_gets_three_channels(tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        left = write_images(tmp_path / suffix / "l", {f"0.{suffix}": cv2.cvtColor(grey(50), cv2.COLOR_GRAY2BGR)})
        right = write_images(tmp_path / suffix / "r", {f"0.{suffix}": grey(90)})
        (shot,) = shots_of(f"dir:{left},{right}")
        assert isinstance(shot, Shot)
        equal = with_equal_channels(shot)
        assert equal.right.shape() == equal.left.shape() == (48, 64, 3)
        assert np.median(np.asarray(equal.right.pixels)) == pytest.approx(np.median(grey(90)), abs=3)
        (pair,) = capture([shot], Dedupe(DedupeConfig()), device="d", epoch="0" * 32)
        assert decode(pair).right.shape == (48, 64, 3)


def exif(orientation: int) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IH", 8, 1) + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
    body = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_block_says_and_as_control_sets_are(
    tmp_path: Path, orientation: int
) -> None:
    image = cv2.cvtColor(grey(50), cv2.COLOR_GRAY2BGR)
    for eye in ("l", "r"):
        path = Path(write_images(tmp_path / eye, {"0.jpg": image})) / "0.jpg"
        data = path.read_bytes()
        path.write_bytes(data[:2] + exif(orientation) + data[2:])
    (shot,) = shots_of(f"dir:{tmp_path / 'l'},{tmp_path / 'r'}")
    assert isinstance(shot, Shot)
    upright = cv2.imread(str(tmp_path / "l" / "0.jpg"), cv2.IMREAD_COLOR)
    assert upright is not None
    assert shot.left.shape() == upright.shape
    assert (shot.left.jpeg is not None) == (orientation == 1)
    if shot.left.pixels is not None:
        assert np.array_equal(shot.left.pixels, upright)


@given(st.binary(max_size=300))
def test_an_exif_block_of_any_bytes_is_survived(noise: bytes) -> None:
    body = b"Exif\0\0" + noise
    for data in (b"\xff\xd8\xff\xe1" + struct.pack(">H", len(body) + 2) + body, b"\xff\xd8\xff" + noise):
        assert 1 <= jpeg_orientation(data) <= 8


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"", "is empty"),
        (b"<html>not found</html>", "is not an image"),
    ],
)
def test_where_no_pair_can_be_read_the_reason_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    for eye in ("l", "r"):
        (tmp_path / eye).mkdir()
        (tmp_path / eye / "0.jpg").write_bytes(content)
    with pytest.raises(CameraError, match=f"holds no readable pair: .*0.jpg {said}|{said}"):
        open_camera(f"dir:{tmp_path / 'l'},{tmp_path / 'r'}")


def test_names_that_are_not_utf_8_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    write_film(tmp_path / "a.mkv", [0, 100])
    (tmp_path / "a.mkv").rename(folder / "\udcfc.mkv")
    with caplog.at_level(logging.WARNING):
        assert len(shots_of(f"tb:{folder / chr(0xDCFC)}.mkv")) == 2
