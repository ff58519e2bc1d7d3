"""Recordings as cameras, on real files, and the messages if there is no camera."""

from __future__ import annotations

import importlib.util
import logging
import os
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from device.camera import BadShot, Camera, CameraError, CameraMissing, CameraSettings, Shot
from device.cameras.open import CAMERAS, camera_kind, open_camera
from device.cameras.recorded.films import open_split, open_videos
from device.cameras.recorded.folders import open_folders
from stream.image import Image

START_NS = 1_700_000_000_000_000_000


def picture(level: int, *, height: int = 48, width: int = 64, colour: bool = True) -> Image:
    """A gradient whose level depends on eye and number."""
    grey = np.clip(level + np.arange(width) // 4, 0, 255).astype(np.uint8)[None].repeat(height, axis=0)
    return np.stack([grey, grey // 2, grey // 4], axis=2) if colour else grey


def write_folders(root: Path, names: list[str], *, colour: bool = True) -> tuple[Path, Path]:
    """Left images of level 10, 20, ... and right ones of 110, 120, ... in the order of the names given."""
    for eye, offset in (("left", 10), ("right", 110)):
        (root / eye).mkdir()
        for number, name in enumerate(names):
            assert cv2.imwrite(str(root / eye / name), picture(offset + 10 * number, colour=colour))
    return root / "left", root / "right"


def write_video(path: Path, levels: list[int], *, width: int = 64, fps: float = 25.0) -> Path:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, 48))
    assert video.isOpened()
    for level in levels:
        video.write(picture(level, width=width))
    video.release()
    return path


def shots_of(camera: Camera, limit: int = 100) -> list[Shot]:
    shots = [shot for shot in islice(camera, limit) if isinstance(shot, Shot)]
    camera.close()
    return shots


def pixels(image: Image | None) -> Image:
    assert image is not None
    return image


def test_a_folder_gives_its_jpeg_files_untouched_in_the_order_of_their_names(tmp_path: Path) -> None:
    left, right = write_folders(tmp_path, ["b.jpg", "a.jpg", "c.JPG"])
    shots = shots_of(open_folders(left, right))
    assert [shot.left.jpeg for shot in shots] == [(left / name).read_bytes() for name in ("a.jpg", "b.jpg", "c.JPG")]
    assert [shot.right.jpeg for shot in shots] == [(right / name).read_bytes() for name in ("a.jpg", "b.jpg", "c.JPG")]
    assert all(shot.left.pixels is None for shot in shots)


@pytest.mark.parametrize("colour", [True, False])
def test_other_formats_are_decoded_and_grey_stays_grey(tmp_path: Path, colour: bool) -> None:
    left, right = write_folders(tmp_path, ["0.png", "1.png"], colour=colour)
    shots = shots_of(open_folders(left, right))
    assert np.array_equal(pixels(shots[1].left.pixels), picture(20, colour=colour))
    assert np.array_equal(pixels(shots[1].right.pixels), picture(120, colour=colour))
    assert shots[0].left.shape() == (48, 64, 3 if colour else 1)


def test_files_are_stamped_at_the_rate_they_are_played(tmp_path: Path) -> None:
    left, right = write_folders(tmp_path, ["0.png", "1.png", "2.png"])
    for fps, period_ns in ((None, 100_000_000), (20.0, 50_000_000)):
        camera = open_camera(f"dir:{left},{right}", CameraSettings(fps=fps, start_ns=START_NS))
        assert camera.fps is None
        stamps = [(shot.left.captured_ns, shot.right.captured_ns) for shot in shots_of(camera)]
        assert stamps == [(START_NS + index * period_ns,) * 2 for index in range(3)]


def test_a_repeated_recording_begins_again_while_its_time_goes_on(tmp_path: Path) -> None:
    left, right = write_folders(tmp_path, ["0.jpg", "1.jpg"])
    shots = shots_of(open_camera(f"dir:{left},{right}", CameraSettings(repeat=True, start_ns=0)), limit=5)
    assert [shot.left.jpeg for shot in shots] == [(left / f"{index % 2}.jpg").read_bytes() for index in range(5)]
    assert [shot.left.captured_ns for shot in shots] == [index * 100_000_000 for index in range(5)]


def test_an_unreadable_image_is_a_bad_shot_and_the_camera_goes_on(tmp_path: Path) -> None:
    left, right = write_folders(tmp_path, [f"{index}.png" for index in range(4)])
    (left / "1.png").write_bytes(b"not an image")
    (right / "2.png").write_bytes(b"")
    shots = list(open_folders(left, right))
    assert [isinstance(shot, BadShot) for shot in shots] == [False, True, True, False]
    assert "1.png" in str(shots[1])
    assert "2.png" in str(shots[2])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_pipe_among_the_images_is_a_bad_shot_and_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    left, right = write_folders(tmp_path, [f"{index}.{suffix}" for index in range(3)])
    (left / f"1.{suffix}").unlink()
    os.mkfifo(left / f"1.{suffix}")
    shots = list(open_folders(left, right))
    assert [type(shot) for shot in shots] == [Shot, BadShot, Shot]
    assert str(shots[1]) == f"{left / '1'}.{suffix} is no regular file"


def test_a_file_that_vanishes_is_a_bad_shot(tmp_path: Path) -> None:
    left, right = write_folders(tmp_path, ["0.jpg", "1.jpg"])
    camera = open_folders(left, right)
    (right / "1.jpg").unlink()
    assert [type(shot) for shot in camera] == [Shot, BadShot]


def test_what_one_eye_lost_is_left_out_with_its_name_and_the_rest_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left, right = write_folders(tmp_path, ["0.jpg", "1.jpg", "2.jpg"])
    (right / "1.jpg").unlink()
    shots = shots_of(open_folders(left, right))
    assert [shot.right.jpeg for shot in shots] == [(right / name).read_bytes() for name in ("0.jpg", "2.jpg")]
    assert "left out: left 1 (1.jpg)" in caplog.text


def test_folders_without_a_name_in_common_are_refused(tmp_path: Path) -> None:
    left, right = write_folders(tmp_path, ["0.jpg", "1.jpg"])
    for file in list(right.iterdir()):
        file.rename(right / f"shot {file.name}")
    with pytest.raises(CameraError, match=r"left has 2 images, such as 0\.jpg, .*no name is in both"):
        open_folders(left, right)


def test_a_missing_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    left, right = write_folders(tmp_path, ["0.jpg"])
    with pytest.raises(CameraError, match="no folder"):
        open_folders(left, tmp_path / "nowhere")
    (right / "0.jpg").rename(right / "0.txt")
    with pytest.raises(CameraError, match="holds no images"):
        open_folders(left, right)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_left_and_right_of_different_sizes_are_refused_on_the_first_pair(tmp_path: Path, suffix: str) -> None:
    left, right = write_folders(tmp_path, [f"0.{suffix}", f"1.{suffix}"])
    cv2.imwrite(str(right / f"0.{suffix}"), picture(100, width=62))
    with pytest.raises(CameraError, match=r"left is 64x48 colour and right is .* one size"):
        open_folders(left, right)


def test_a_recording_without_one_readable_pair_is_refused(tmp_path: Path) -> None:
    left, right = write_folders(tmp_path, ["0.jpg", "1.jpg"])
    for file in left.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CameraError, match=r"holds no readable pair: .*0\.jpg: the JPEG is cut off"):
        open_folders(left, right)


def test_two_videos_give_their_frames_side_by_side_in_time(tmp_path: Path) -> None:
    left = write_video(tmp_path / "left.avi", [20, 40, 60])
    right = write_video(tmp_path / "right.avi", [120, 140, 160])
    camera = open_camera(f"video:{left},{right}", CameraSettings(start_ns=START_NS))
    assert camera.fps == 25.0
    shots = shots_of(camera)
    assert [shot.left.captured_ns - START_NS for shot in shots] == [0, 40_000_000, 80_000_000]
    for index, shot in enumerate(shots):
        assert np.abs(pixels(shot.left.pixels).astype(int) - picture(20 + 20 * index)).mean() < 4
        assert np.abs(pixels(shot.right.pixels).astype(int) - picture(120 + 20 * index)).mean() < 4


@pytest.mark.parametrize(("lefts", "rights"), [(2, 4), (4, 2)])
def test_what_is_left_of_the_longer_video_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lefts: int, rights: int
) -> None:
    left = write_video(tmp_path / "left.avi", [20] * lefts)
    right = write_video(tmp_path / "right.avi", [120] * rights)
    with caplog.at_level(logging.WARNING):
        assert len(shots_of(open_videos(left, right))) == 2
    assert f"left out: {'right' if lefts == 2 else 'left'} 2 (0.080 s, 0.120 s)" in caplog.text


def test_a_side_by_side_video_has_the_left_eye_in_its_left_half(tmp_path: Path) -> None:
    path = tmp_path / "both.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 48))
    for level in (20, 40):
        video.write(np.hstack([picture(level), picture(level + 100)]))
    video.release()
    shots = shots_of(open_camera(f"sbs:{path}"))
    assert len(shots) == 2
    assert np.abs(pixels(shots[1].left.pixels).astype(int) - picture(40)).mean() < 4
    assert np.abs(pixels(shots[1].right.pixels).astype(int) - picture(140)).mean() < 4


def test_a_side_by_side_video_of_odd_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.avi"  # by OpenCV's own writer: that of ffmpeg makes the width even
    video = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (65, 48))
    video.write(picture(20, width=65))
    video.release()
    with pytest.raises(CameraError, match="left is 32x48 colour and right is 33x48 colour"):
        open_split("sbs", path)


def test_a_film_whose_codec_nobody_knows_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "known.avi"
    video = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    video.write(picture(20, width=64))
    video.release()
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZZZZ"))
    with pytest.raises(CameraError, match="has a codec that FFmpeg does not know: re-encode it"):
        open_split("sbs", path)


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"nothing")
    with pytest.raises(CameraError, match="is not a video"):
        open_split("sbs", tmp_path / "a.avi")
    with pytest.raises(CameraError, match="no video"):
        open_split("sbs", tmp_path / "b.avi")


@pytest.mark.parametrize("spec", ["", "webcam", "dir", "dir:only", "dir:a,b,c", "video:,b", "sbs:", "v4l2:0"])
def test_words_that_name_no_camera_are_refused_with_the_expected_form(spec: str) -> None:
    with pytest.raises(CameraError, match="expected") as refusal:
        open_camera(spec)
    assert "\n" not in str(refusal.value)


def test_where_no_usb_camera_is_plugged_in_the_device_file_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CameraMissing, match="no camera at /dev/video977: "):
        open_camera("v4l2:977,978")
    assert capfd.readouterr().err == "", "OpenCV must not add lines of its own"


def test_a_device_file_that_is_no_camera_is_refused(tmp_path: Path) -> None:
    (tmp_path / "video").write_bytes(b"")
    with pytest.raises(CameraMissing, match="not a camera"):
        open_camera(f"v4l2:{tmp_path / 'video'},{tmp_path / 'video'}")


@pytest.mark.skipif(importlib.util.find_spec("picamera2") is not None, reason="picamera2 is installed here")
def test_without_picamera2_the_message_explains_how_to_install_it() -> None:
    with pytest.raises(CameraError, match="apt install python3-picamera2"):
        open_camera("picamera2:0,1")


def test_the_simulated_camera_opens_with_its_settings() -> None:
    camera = open_camera("sim", CameraSettings(fps=5, size=(96, 128), seed=3, walk=1, places=2, start_ns=START_NS))
    shots = shots_of(camera, limit=2)
    assert camera.fps == 5
    assert shots[0].left.shape() == (96, 128, 3)
    assert shots[1].left.captured_ns == START_NS + 200_000_000


def test_the_kind_of_a_camera_is_the_word_before_the_colon() -> None:
    assert [camera_kind(spec) for spec in ("sim", "dir:a,b", "v4l2:0,2")] == [
        CAMERAS["sim"],
        CAMERAS["dir"],
        CAMERAS["v4l2"],
    ]


@pytest.mark.parametrize("name", ["kitti_street_a", "kitti_colour", "euroc_still"])
def test_a_real_recording_gives_all_its_pairs_with_left_and_right_in_their_places(shared_data: Path, name: str) -> None:
    folder = shared_data / "stereo" / name
    shots = shots_of(open_camera(f"dir:{folder / 'left'},{folder / 'right'}"))
    files = sorted((folder / "left").iterdir())
    assert len(shots) == len(files)
    for shot, file in zip(shots, files, strict=True):
        assert shot.left.jpeg == file.read_bytes()
        assert shot.right.jpeg == (folder / "right" / file.name).read_bytes()
