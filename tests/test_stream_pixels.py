"""Images of recordings of other tools: each encoding becomes the right pixels."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from foreign import EYES, FRAME_NS, bag, jpeg, json_mcap, painted, read, stamp
from recorded import START_NS

from device.camera import CameraSettings, Shot
from device.cameras.open import open_camera
from stream.codec import decode
from stream.recording.foreign import EyeTopics
from stream.recording.pixels import Compressed, Pixels, Raw
from stream.recording.reader import open_recording
from stream.recording.source import RecordingSource


def shown(content: Compressed | Raw) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = Pixels().read(content)
    assert not isinstance(image, bytes)
    return image


@pytest.mark.parametrize("word", ["jpeg", "image/jpeg", "rgb8; jpeg compressed bgr8", "", "png"])
def test_the_first_bytes_decide_what_a_compressed_image_is(word: str) -> None:
    assert Pixels().read(Compressed(word, memoryview(jpeg(1)))) == jpeg(1)


def test_png_keeps_its_pixels_and_webp_becomes_a_jpeg() -> None:
    image = painted(5)
    assert np.array_equal(shown(Compressed("png", memoryview(cv2.imencode(".png", image)[1].tobytes()))), image)
    with_alpha = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)
    assert np.array_equal(shown(Compressed("png", memoryview(cv2.imencode(".png", with_alpha)[1].tobytes()))), image)
    for quality in (80, 101):  # with loss, and without
        file = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
        data = Pixels().read(Compressed("webp", memoryview(file)))
        assert isinstance(data, bytes)
        got = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert got is not None
        assert np.abs(got.astype(int) - image).mean() < 5


@pytest.mark.parametrize("encoding", ["bgra8", "rgba8", "rgb8", "bgr8", "bgr16", "rgb16"])
def test_colours_are_not_exchanged(encoding: str) -> None:
    image = painted(7)
    order = image[..., ::-1] if encoding.startswith("rgb") else image
    if "a" in encoding:
        order = np.concatenate([order, np.full((48, 64, 1), 9, np.uint8)], axis=2)
    values = order.astype("<u2") * 257 if encoding.endswith("16") else order
    got = shown(Raw(encoding, 48, 64, values[0].nbytes, memoryview(values.tobytes())))
    blue_to_red = [np.corrcoef(got[..., channel].ravel(), image[..., channel].ravel())[0, 1] for channel in range(3)]
    assert min(blue_to_red) > 0.99
    assert encoding.endswith("16") or np.array_equal(got, image)


@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_become_colour(order: str) -> None:
    values = {"r": 200, "g": 120, "b": 40}
    mosaic = np.tile(
        np.array([[values[order[0]], values[order[1]]], [values[order[2]], values[order[3]]]], np.uint8), (8, 8)
    )
    got = shown(Raw(f"bayer_{order}8", 16, 16, 16, memoryview(mosaic.tobytes())))
    assert got[8, 8].tolist() == [40, 120, 200]


@pytest.mark.parametrize(("encoding", "grey_at"), [("yuv422", 1), ("uyvy", 1), ("yuv422_yuy2", 0), ("yuyv", 0)])
def test_yuv_becomes_colour(encoding: str, grey_at: int) -> None:
    values = np.full((4, 6, 2), 128, np.uint8)
    values[..., grey_at] = np.arange(4)[:, None] * 40 + 60
    got = shown(Raw(encoding, 4, 6, 12, memoryview(values.tobytes())))
    assert got.shape == (4, 6, 3)
    assert np.all(np.diff(got[:, 0, 1].astype(int)) > 30)
    with pytest.raises(ValueError, match="cannot be"):
        Pixels().read(Raw(encoding, 4, 5, 10, memoryview(bytes(40))))


@pytest.mark.parametrize(("top", "is_big_endian"), [(1 << 10, False), (1 << 12, True), (1 << 16, False)])
def test_images_of_16_bits_are_never_black(top: int, is_big_endian: bool) -> None:
    counts = np.linspace(top // 2, top - 1, 48 * 64).reshape(48, 64).astype(">u2" if is_big_endian else "<u2")
    pixels = Pixels()
    raw = Raw("mono16", 48, 64, 128, memoryview(counts.tobytes()), is_big_endian)
    image = pixels.read(raw)
    assert not isinstance(image, bytes)
    assert (image.min(), image.max()) == (0, 255)
    assert np.all(np.diff(image.ravel().astype(int)) >= 0)
    half = counts // 2  # a darker image afterwards stays darker
    darker = pixels.read(Raw("16UC1", 48, 64, 128, memoryview(half.tobytes()), is_big_endian))
    assert not isinstance(darker, bytes)
    assert darker.mean() < 128


def deep_scenes(count: int) -> list[np.ndarray[Any, np.dtype[np.uint16]]]:
    """Counts of a thermal camera that become warmer and warmer."""
    rng = np.random.default_rng(0)
    return [rng.integers(7300 + 60 * n, 7500 + 60 * n, (48, 64), np.uint16) for n in range(count)]


@pytest.mark.parametrize("kind", ["png", "db3", "ros1"])
@pytest.mark.parametrize("levels", [None, (7000.0, 9000.0)])
def test_images_of_16_bits_look_alike_in_a_folder_and_in_a_recording(
    tmp_path: Path, kind: str, levels: tuple[float, float] | None
) -> None:
    scenes, messages = deep_scenes(12), list[tuple[str, int, dict[str, Any]]]()
    for eye in EYES:
        (tmp_path / eye).mkdir()
    for number, scene in enumerate(scenes):
        file = cv2.imencode(".png", scene)[1].tobytes()
        for eye in EYES:
            (tmp_path / eye / f"{number}.png").write_bytes(file)
            messages.append((eye, START_NS + number * FRAME_NS, {"format": "png", "data": file}))
    path = tmp_path / ("day.mcap" if kind == "png" else "day.bag" if kind == "ros1" else "day")
    if kind == "png":
        path.write_bytes(json_mcap(messages))
    else:
        with bag(path, "ros1" if kind == "ros1" else "db3") as written:
            for number, scene in enumerate(scenes):
                data = {
                    "height": 48,
                    "width": 64,
                    "encoding": "mono16",
                    "step": 128,
                    "data": scene.view(np.uint8).ravel(),
                }
                for eye in EYES:
                    written.image(f"/{eye}", START_NS + number * FRAME_NS, START_NS + number * FRAME_NS, data)
    with open_recording(path, EyeTopics(levels=levels)) as reader:
        recorded = [decode(pair).left for pair in reader]
    shots = open_camera(f"dir:{tmp_path / 'left'},{tmp_path / 'right'}", CameraSettings(levels=levels))
    for shot, image in zip(shots, recorded, strict=True):
        assert isinstance(shot, Shot)
        assert np.array_equal(np.asarray(shot.left.pixels), image)
    means = [image.mean() for image in recorded]
    assert np.all(np.diff(means) > 5), "warmer is brighter"


def test_the_files_of_one_recording_have_one_scale(tmp_path: Path) -> None:
    scenes = deep_scenes(8)
    for part in (0, 1):
        messages = [
            (eye, START_NS + n * FRAME_NS, {"format": "png", "data": cv2.imencode(".png", scenes[n])[1].tobytes()})
            for n in range(4 * part, 4 * part + 4)
            for eye in EYES
        ]
        (tmp_path / f"walk_{part}.mcap").write_bytes(json_mcap(messages))
    source = RecordingSource([tmp_path / "walk_0.mcap", tmp_path / "walk_1.mcap"])
    first, second = (source.receive(4, 0.0)[-1] for _ in range(2))
    assert decode(second).left.mean() > decode(first).left.mean() - 5


def turned(orientation: int, image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """A JPEG with an EXIF orientation."""
    tiff = b"MM\0*" + struct.pack(">IH", 8, 1) + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
    data = cv2.imencode(".jpg", image)[1].tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + data[2:]


def test_a_turned_photograph_in_a_recording_is_stored_upright() -> None:
    image = painted(3)
    data = turned(6, image)
    file = Pixels().read(Compressed("jpeg", memoryview(data)))
    assert isinstance(file, bytes)
    got, upright = (cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in (file, data))
    assert got is not None
    assert upright is not None
    assert got.shape == upright.shape == (64, 48, 3)
    assert np.abs(got.astype(int) - upright).mean() < 4
    assert Pixels().read(Compressed("jpeg", memoryview(turned(1, image)))) == turned(1, image)
    assert Pixels(as_sent=True).read(Compressed("jpeg", memoryview(data))) == data


def test_a_jpeg_of_four_channels_becomes_one_of_colour() -> None:
    pil = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    pil.fromarray(painted(3)[..., ::-1]).convert("CMYK").save(file, "JPEG", quality=95)
    got = Pixels().read(Compressed("jpeg", memoryview(file.getvalue())))
    assert isinstance(got, bytes)
    image = cv2.imdecode(np.frombuffer(got, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert np.abs(image.astype(int) - painted(3)).mean() < 12
    with pytest.raises(ValueError, match="cut off"):
        Pixels().read(Compressed("jpeg", memoryview(file.getvalue()[:-400])))


@pytest.mark.parametrize("grey_eye", EYES)
@pytest.mark.parametrize("word", [".jpg", ".png"])
def test_a_grey_eye_beside_one_with_colour_is_a_pair(grey_eye: str, word: str) -> None:
    events = []
    for eye in EYES:
        image = painted(3, 1) if eye == grey_eye else painted(3)
        content = {"timestamp": stamp(START_NS), "format": word[1:], "data": cv2.imencode(word, image)[1].tobytes()}
        events.append((eye, START_NS, content))
    _, [pair] = read(json_mcap(events))
    grey = getattr(decode(pair), grey_eye)
    assert pair.header.channels == 3
    assert np.array_equal(grey[..., 0], grey[..., 2])


@pytest.mark.parametrize(
    ("encoding", "conversion"),
    [("i420", cv2.COLOR_BGR2YUV_I420), ("yv12", cv2.COLOR_BGR2YUV_YV12), ("nv12", None), ("nv21", None)],
)
def test_planar_yuv_becomes_colour(encoding: str, conversion: int | None) -> None:
    image = cv2.resize(np.array([[[40, 120, 200]]], np.uint8), (64, 48))
    planar = cv2.cvtColor(image, conversion or cv2.COLOR_BGR2YUV_I420)
    if conversion is None:
        chroma = planar[48:].reshape(2, -1)
        planar = np.concatenate([planar[:48].ravel(), chroma[:: 1 if encoding == "nv12" else -1].T.ravel()])
    got = shown(Raw(encoding, 48, 64, 64, memoryview(np.ascontiguousarray(planar).tobytes())))
    assert np.abs(got.astype(int) - image).max() < 6
    for height, width in ((47, 64), (48, 63)):
        with pytest.raises(ValueError, match="cannot be"):
            Pixels().read(Raw(encoding, height, width, width, memoryview(bytes(height * width * 3 // 2))))


@pytest.mark.parametrize("is_big_endian", [False, True])
def test_images_of_floats_become_8_bits_and_what_is_no_number_is_black(is_big_endian: bool) -> None:
    values = np.linspace(0.2, 0.8, 48 * 64).reshape(48, 64).astype(">f4" if is_big_endian else "<f4")
    values[0, :4] = np.nan, np.inf, -np.inf, np.nan
    image = shown(Raw("32FC1", 48, 64, 256, memoryview(values.tobytes()), is_big_endian))
    assert image[0, 0] == image[0, 3] == 0
    assert np.all(np.diff(image.ravel()[4:].astype(int)) >= 0)
    assert image.mean() == pytest.approx(127, abs=5)
