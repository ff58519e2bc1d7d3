"""The simulated camera: deterministic, labelled, with pauses that are duplicates and walks that are not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from device.camera import Camera, CameraError, EyeImage, Shot
from device.sim.camera import SimCamera, SimConfig
from device.sim.trajectory import EYE_M
from stream.image import Image

SMALL = SimConfig(size=(96, 128), places=4, seed=5)


def pixels(eye: EyeImage) -> Image:
    assert eye.pixels is not None
    return eye.pixels


def digest(camera: Camera, count: int) -> str:
    found = sha256()
    for shot in islice(camera, count):
        assert isinstance(shot, Shot)
        found.update(pixels(shot.left).tobytes() + pixels(shot.right).tobytes() + repr(shot.labels).encode())
    return found.hexdigest()


@pytest.fixture(scope="module")
def camera() -> SimCamera:
    return SimCamera(SMALL)


def test_two_cameras_of_the_same_settings_give_the_same_bits(camera: SimCamera) -> None:
    assert digest(camera, 12) == digest(camera, 12) == digest(SimCamera(SMALL), 12)


def test_another_process_gives_the_same_bits(camera: SimCamera) -> None:
    program = (
        "from tests.test_device_sim import SMALL, digest\n"
        "from device.sim.camera import SimCamera\n"
        "print(digest(SimCamera(SMALL), 12))"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert other.stdout.strip() == digest(camera, 12)


@pytest.mark.parametrize("change", [{"seed": 6}, {"walk": 1}, {"noise": 0.0}, {"baseline_m": 0.1}])
def test_every_setting_of_the_picture_changes_it(camera: SimCamera, change: dict[str, Any]) -> None:
    assert digest(SimCamera(SMALL, **change), 3) != digest(camera, 3)


def test_a_shot_is_two_colour_images_of_the_asked_size_taken_at_one_moment(camera: SimCamera) -> None:
    shots = list(islice(camera, 4))
    for shot in shots:
        assert pixels(shot.left).shape == pixels(shot.right).shape == (96, 128, 3)
        assert pixels(shot.left).dtype == pixels(shot.right).dtype == np.uint8
        assert shot.left.captured_ns == shot.right.captured_ns
    assert [shot.left.captured_ns - SMALL.start_ns for shot in shots] == [0, 10**8, 2 * 10**8, 3 * 10**8]


def test_capture_times_do_not_drift_at_a_rate_that_is_no_whole_number_of_nanoseconds(camera: SimCamera) -> None:
    thirty = SimCamera(SMALL, world=camera.world, fps=30.0, start_ns=7)
    pose = next(thirty.poses())
    assert thirty.shot(30 * 86400, pose).left.captured_ns == 7 + 86400 * 10**9


def test_a_pause_differs_from_frame_to_frame_by_sensor_noise_only(camera: SimCamera) -> None:
    poses = list(islice(camera.poses(), 300))
    pauses = [k for k in range(299) if poses[k] == poses[k + 1]]
    assert 0.1 < len(pauses) / 299 < 0.7
    for k in pauses[::15]:
        one, two = (pixels(camera.shot(n, poses[n]).left).astype(float) for n in (k, k + 1))
        lit = (one.min(axis=-1) > 8) & (one.max(axis=-1) < 247)
        difference = (two - one)[lit]
        # Two independent noises, each rounded to whole grey levels (variance 1/12); light drifts by less than one level.
        assert difference.std() == pytest.approx(np.sqrt(2 * (SMALL.noise**2 + 1 / 12)), rel=0.1)
        assert abs(difference.mean()) < 1


def test_a_walking_camera_sees_something_new_in_every_frame(camera: SimCamera) -> None:
    poses = list(islice(camera.poses(), 300))
    moving = [k for k in range(299) if np.hypot(poses[k + 1].x - poses[k].x, poses[k + 1].z - poses[k].z) > 0.05]
    assert len(moving) > 60
    for k in moving[::15]:
        one, two = (pixels(camera.shot(n, poses[n]).left).astype(float) for n in (k, k + 1))
        assert (two - one).std() > 3 * np.sqrt(2) * SMALL.noise


def test_the_noise_of_the_eyes_and_of_neighbouring_frames_is_uncorrelated(camera: SimCamera) -> None:
    clean = SimCamera(SMALL, world=camera.world, noise=0.0)
    pose = next(camera.poses())
    noises = []
    for index in range(3):
        for eye in ("left", "right"):
            seen, true = (pixels(getattr(each.shot(index, pose), eye)).astype(float) for each in (camera, clean))
            lit = (true > 8) & (true < 247)
            noises.append(np.where(lit, seen - true, 0).ravel())
    correlation = np.corrcoef(noises)[~np.eye(6, dtype=bool)]
    assert np.abs(correlation).max() < 5 / np.sqrt(noises[0].size)


def test_the_right_eye_stands_to_the_right_of_the_left_one(camera: SimCamera) -> None:
    """Without knowing the scene: most of the left image is found again further left in the right image."""
    clean = SimCamera(SMALL, world=camera.world, noise=0.0)
    shifts = []
    for index, pose in islice(enumerate(clean.poses()), 0, 200, 10):
        shot = clean.shot(index, pose)
        patch = pixels(shot.left)[32:64, 48:80]
        scores = cv2.matchTemplate(pixels(shot.right)[32:64], patch, cv2.TM_CCOEFF_NORMED)[0]
        shifts.append(48 - int(scores.argmax()))
    depths = [SMALL.focal_px * SMALL.baseline_m / shift for shift in shifts if shift > 0]
    assert len(depths) >= 0.9 * len(shifts)
    assert 1.0 < float(np.median(depths)) < 6.0


def test_labels_name_the_place_the_camera_is_in_and_things_of_the_world(camera: SimCamera) -> None:
    known = {thing for room in camera.world.rooms for thing in room.things}
    for index, pose in islice(enumerate(camera.poses()), 0, 400, 20):
        labels = camera.shot(index, pose).labels
        assert labels is not None
        room = camera.world.rooms[labels.place]
        assert (room.low <= (pose.x, pose.z)).all()
        assert (room.high >= (pose.x, pose.z)).all()
        assert set(labels.objects) <= known - {-1}
        assert len(labels.objects) >= 1


def test_the_walk_visits_every_place_again_and_again(camera: SimCamera) -> None:
    places = [pose.place for pose in islice(camera.poses(), 3000)]
    entered = [place for place, before in zip(places[1:], places[:-1], strict=True) if place != before]
    assert min(entered.count(place) for place in range(4)) >= 2


def test_two_walks_of_one_world_take_other_paths_in_other_light_past_the_same_things(camera: SimCamera) -> None:
    other = SimCamera(SMALL, world=camera.world, walk=1)
    mine, theirs = (list(islice(each.poses(), 600)) for each in (camera, other))
    assert mine != theirs
    assert {pose.place for pose in mine} == {pose.place for pose in theirs}
    pose = mine[0]
    clean, lit = (SimCamera(SMALL, world=camera.world, noise=0.0, walk=walk).shot(0, pose) for walk in (0, 1))
    assert clean.labels == lit.labels
    ratio = pixels(clean.left).mean(axis=(0, 1)) / pixels(lit.left).mean(axis=(0, 1))
    assert np.abs(np.log(ratio)).max() > 0.03


@pytest.mark.parametrize("seed", range(3))
def test_the_head_moves_smoothly_and_bumps_into_nothing(seed: int) -> None:
    camera = SimCamera(SMALL, seed=seed)
    poses = list(islice(camera.poses(), 1500))
    for pose in poses:
        room = camera.world.rooms[pose.place]
        if len(room.radii):
            assert (np.hypot(*(room.centres - (pose.x, pose.z)).T) - room.radii).min() > 0.1
        assert abs(pose.y + EYE_M) < 0.05
    path = np.array([(pose.x, pose.z) for pose in poses])
    assert np.hypot(*np.diff(path, axis=0).T).max() < 0.2
    turn = np.diff([pose.yaw for pose in poses])
    assert np.abs((turn + np.pi) % (2 * np.pi) - np.pi).max() < 0.5


def test_a_world_of_one_room_is_a_world() -> None:
    shots = list(islice(SimCamera(size=(48, 64), places=1), 80))
    assert {shot.labels.place for shot in shots if shot.labels} == {0}


def test_photographs_of_a_folder_hang_in_the_world_and_unreadable_files_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "deep" / "green.png"), np.full((40, 60, 3), (0, 255, 0), np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    camera = SimCamera(SMALL, textures=tmp_path, noise=0.0)
    assert "skipped unreadable files=1" in caplog.text
    shot = next(iter(camera))
    blue, green, red = (pixels(shot.left)[..., c].astype(int) for c in range(3))
    assert ((green > 2 * blue) & (green > 2 * red)).mean() > 0.2


def test_with_real_photographs_the_layout_is_the_same(shared_data: Path, camera: SimCamera) -> None:
    hung = SimCamera(SMALL, textures=shared_data / "control" / "tiny_imagenet" / "train")
    assert list(islice(hung.poses(), 50)) == list(islice(camera.poses(), 50))
    assert digest(hung, 2) != digest(camera, 2)


def test_a_folder_without_photographs_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(CameraError, match=r"no readable image in .* \(1 unreadable\); put .* files there") as error:
        SimCamera(SMALL, textures=tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(CameraError, match="is not a folder"):
        SimCamera(SMALL, textures=tmp_path / "absent")


@pytest.mark.parametrize(
    "wrong",
    [{"size": (8, 64)}, {"size": (64, 99999)}, {"places": 0}, {"fps": 0.0}, {"fps": float("nan")}, {"noise": -1.0},
     {"view_deg": 180.0}, {"baseline_m": -0.1}, {"seed": -1}, {"walk": -1}, {"start_ns": -1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name) as error:
        replace(SMALL, **wrong)
    assert "\n" not in str(error.value)


def test_the_left_view_alone_is_that_of_the_shot(camera: SimCamera) -> None:
    for index, pose in islice(enumerate(camera.poses()), 0, 40, 20):
        np.testing.assert_array_equal(camera.left_view(index, pose), pixels(camera.shot(index, pose).left))
