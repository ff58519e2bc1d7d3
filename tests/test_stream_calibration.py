"""Calibrations: what files of other tools hold, what is refused, and rows of known cameras that agree after rectification."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from painted_cameras import SIZE, PaintedCameras, cameras, speckles

from stream.calibration.file import find_calibration, read_calibration, write_calibration
from stream.calibration.rectify import Rectifier, row_errors
from stream.calibration.rows import matched_rows, row_offset
from stream.calibration.stereo import CalibrationError, Floats, Intrinsics, Model, StereoCalibration, floats

MODELS: list[Model] = ["pinhole", "fisheye"]


def pose(*degrees: float, depth: float = 0.9) -> tuple[Floats, Floats]:
    return floats(cv2.Rodrigues(np.radians(degrees))[0]), floats([0.02, -0.01, depth])


def transform(rotation: Floats, translation: Floats) -> Floats:
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = rotation, translation
    return whole


def flat(values: Floats) -> str:
    return "[" + ", ".join(repr(float(value)) for value in values.ravel()) + "]"


def nested(values: Floats) -> str:
    return json.dumps(values.tolist())


def four(eye: Intrinsics) -> str:
    return flat(floats([eye.matrix[0, 0], eye.matrix[1, 1], eye.matrix[0, 2], eye.matrix[1, 2]]))


def kalibr(known: StereoCalibration) -> str:
    text, lens = "", "radtan" if known.model == "pinhole" else "equidistant"
    for name, eye in (("cam0", known.left), ("cam1", known.right)):
        text += f"""
            {name}:
              cam_overlaps: [1]
              camera_model: pinhole
              distortion_coeffs: {flat(eye.distortion)}
              distortion_model: {lens}
              intrinsics: {four(eye)}
              resolution: [{SIZE[1]}, {SIZE[0]}]
              rostopic: /{name}/image_raw"""
        if name == "cam1":
            text += f"""
              T_cn_cnm1: {nested(transform(known.rotation, known.translation))}"""
    return textwrap.dedent(text)


def kalibr_with_imu(known: StereoCalibration) -> str:
    """As the calibration with an IMU writes it, without the transform between the cameras."""
    to_imu = transform(*pose(10, 20, 30))
    cams = (to_imu, transform(known.rotation, known.translation) @ to_imu)
    lines = [line for line in kalibr(known).splitlines() if "T_cn_cnm1" not in line]
    for cam in (0, 1):
        lines.insert(lines.index(f"cam{cam}:") + 1, f"  T_cam_imu: {nested(cams[cam])}")
    return "\n".join(lines)


def euroc(known: StereoCalibration) -> tuple[str, str]:
    body = transform(*pose(40, -80, 15))  # of the left camera in the body
    texts = []
    for eye, to_body in (
        (known.left, body),
        (known.right, body @ np.linalg.inv(transform(known.rotation, known.translation))),
    ):
        lens = "radial-tangential" if known.model == "pinhole" else "equidistant"
        texts.append(
            textwrap.dedent(f"""\
            # General sensor definitions.
            sensor_type: camera
            comment: VI-Sensor cam (MT9M034)
            T_BS:
              cols: 4
              rows: 4
              data: {flat(to_body)}
            rate_hz: 20
            resolution: [{SIZE[1]}, {SIZE[0]}]
            camera_model: pinhole
            intrinsics: {four(eye)} #fu, fv, cu, cv
            distortion_model: {lens}
            distortion_coefficients: {flat(eye.distortion)}
            """)
        )
    return texts[0], texts[1]


def ros(known: StereoCalibration) -> tuple[str, str]:
    """As camera_calibration writes them; the rectification is OpenCV's."""
    plain = np.zeros(4)
    first, second, one, other, *_ = cv2.stereoRectify(
        known.left.matrix, plain, known.right.matrix, plain, SIZE[::-1], known.rotation, known.translation.reshape(3, 1)
    )
    lens = "plumb_bob" if known.model == "pinhole" else "equidistant"
    texts = []
    for eye, turn, projection in ((known.left, first, one), (known.right, second, other)):
        distortion = [*eye.distortion, 0.0] if known.model == "pinhole" else eye.distortion
        text = (
            f"image_width: {SIZE[1]}\nimage_height: {SIZE[0]}\ncamera_name: narrow_stereo\ndistortion_model: {lens}\n"
        )
        for name, values in (
            ("camera_matrix", eye.matrix),
            ("distortion_coefficients", floats([distortion])),
            ("rectification_matrix", turn),
            ("projection_matrix", projection),
        ):
            text += f"{name}:\n  rows: {values.shape[0]}\n  cols: {values.shape[1]}\n  data: {flat(floats(values))}\n"
        texts.append(text)
    return texts[0], texts[1]


def kitti_raw(known: StereoCalibration) -> str:
    """calib_cam_to_cam.txt, whose poses are those in camera 0."""
    turn, move = pose(1, 2, 3)
    poses = ((turn, move), (known.rotation @ turn, known.rotation @ move + known.translation))
    text = "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.950000e-02\n"
    for name, eye, (rotation, translation) in zip(("02", "03"), (known.left, known.right), poses, strict=True):
        rows = {
            "S": floats(SIZE[::-1]),
            "K": eye.matrix,
            "D": floats([*eye.distortion, 0.0]),
            "R": rotation,
            "T": translation,
            "S_rect": floats([300, 200]),
            "P_rect": np.zeros((3, 4)),
        }
        text += "".join(
            f"{key}_{name}: {' '.join(f'{value:.12e}' for value in values.ravel())}\n" for key, values in rows.items()
        )
    return text


def opencv_text(known: StereoCalibration) -> str:
    """As FileStorage writes it, which is not quite YAML."""
    text = "%YAML:1.0\n---\n"
    for name, values in (
        ("K1", known.left.matrix),
        ("D1", known.left.distortion[None]),
        ("K2", known.right.matrix),
        ("D2", known.right.distortion[None]),
        ("R", known.rotation),
        ("T", known.translation[:, None]),
    ):
        rows, cols = values.shape
        text += f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {cols}\n   dt: d\n   data: {flat(values)}\n"
    return text + f"model: {known.model}\nimage_size: [{SIZE[1]}, {SIZE[0]}]\n"


def orb_slam(known: StereoCalibration) -> str:
    text = "%YAML:1.0\nCamera.fps: 20.0\n"
    for eye, info in zip(("LEFT", "RIGHT"), ros(known), strict=True):
        for ours, theirs in (
            ("height", "image_height"),
            ("width", "image_width"),
            ("D", "distortion_coefficients"),
            ("K", "camera_matrix"),
            ("R", "rectification_matrix"),
            ("P", "projection_matrix"),
        ):
            text += info.partition(f"{theirs}:")[2].partition("\n")[0].join((f"{eye}.{ours}:", "")) + "\n"
            if ours not in ("height", "width"):
                text += f"   data: {info.partition(f'{theirs}:')[2].partition('data: ')[2].partition(chr(10))[0]}\n"
    return text


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("written", [kalibr, kalibr_with_imu, euroc, ros, opencv_text, kitti_raw, orb_slam])
def test_a_calibration_of_another_tool_is_read_as_that_tool_means_it(
    tmp_path: Path, written: Callable[[StereoCalibration], str | tuple[str, str]], model: Model
) -> None:
    if model == "fisheye" and written in (kitti_raw, orb_slam):
        pytest.skip("these know one kind of lens")
    known = cameras(model)
    texts = written(known)
    paths = [tmp_path / name for name in ("left.yaml", "right.yaml")]
    for path, text in zip(paths, [texts] if isinstance(texts, str) else texts, strict=False):
        path.write_text(text)
    read = read_calibration(paths if isinstance(texts, tuple) else paths[:1])
    assert (read.size, read.model, read.rectified) == (SIZE, model, False)
    for eye, expected in ((read.left, known.left), (read.right, known.right)):
        np.testing.assert_allclose(eye.matrix, expected.matrix)
        np.testing.assert_allclose(eye.distortion[:4], expected.distortion)
    np.testing.assert_allclose(read.rotation, known.rotation, atol=1e-9)
    direction = read.translation / np.linalg.norm(read.translation)
    np.testing.assert_allclose(direction, known.translation / np.linalg.norm(known.translation), atol=1e-9)


def test_ours_is_written_whole_and_read_again(tmp_path: Path) -> None:
    known, path = cameras("fisheye"), tmp_path / "calibration.json"
    write_calibration(path, known, {"reprojection_px": 0.2})
    read = read_calibration([path])
    np.testing.assert_array_equal(read.right.matrix, known.right.matrix)
    np.testing.assert_array_equal(read.rotation, known.rotation)
    assert (read.size, read.model) == (known.size, "fisheye")
    assert json.loads(path.read_text())["quality"] == {"reprojection_px": 0.2}
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]
    assert read_calibration([tmp_path]).size == known.size, "as the root of a data set"


def test_kitti_is_rectified_already(tmp_path: Path) -> None:
    path = tmp_path / "calib.txt"
    rows = {"P0": 0.0, "P1": -386.1, "P2": 45.4, "P3": -338.0}
    path.write_text("".join(f"{name}: 718.9 0 607.2 {move} 0 718.9 185.2 0 0 0 1 0\n" for name, move in rows.items()))
    read = read_calibration([tmp_path])
    assert read.rectified
    assert read.translation[0] == pytest.approx(-(338.0 + 45.4) / 718.9)
    raw = tmp_path / "raw.txt"
    raw.write_text(kitti_raw(cameras()))
    rectifier = Rectifier(read_calibration([raw]))
    image = np.zeros((200, 300), np.uint8)
    assert rectifier.apply(image, image)[0] is image, "its synchronised images have the size of rectified ones"


def test_the_root_of_a_data_set_brings_its_calibration(tmp_path: Path) -> None:
    assert find_calibration(tmp_path) is None
    for eye, text in zip(("cam0", "cam1"), euroc(cameras()), strict=True):
        (tmp_path / "mav0" / eye).mkdir(parents=True)
        (tmp_path / "mav0" / eye / "sensor.yaml").write_text(text)
    assert read_calibration([tmp_path]).size == SIZE


GOOD = kalibr(cameras())


def billions(leaf: str) -> str:
    """Lists that name each other, so that a short text stands for 10^40 leaves."""
    first = f"x0: &x0 [{', '.join([leaf] * 10) if leaf else ''}]\n"
    return first + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 41))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no keys"),
        ("{", "no calibration of ours"),
        ('{"format": "babyagent-stereo-calibration", "version": 2}', "version"),
        ("- 1\n- 2", "no keys"),
        ("a: [1, 2", "is not YAML"),
        ("a: !!python/object/apply:os.system [true]", "is not YAML"),
        ("[" * 500, "is not YAML"),
        ("a: &a {x: 1}\nb: {<<: *a}", "is not YAML"),
        ("x: 1", "kind is not known"),
        ("#" * (65 << 10), "larger than 64 KiB"),
        (euroc(cameras())[0], "give two files"),
        (GOOD.replace("cam1:", "other:"), "cam0 only"),
        (GOOD.replace("pinhole", "omni"), "'omni' is not read"),
        (GOOD.replace("radtan", "fov"), "'fov' is not read"),
        (GOOD.replace("[320, 240]", "[320, 241]", 1), "differ"),
        (GOOD.replace("[320, 240]", "[-320, 240]"), "sides are"),
        (GOOD.replace("[320, 240]", "[1e400, 240]"), "no finite number"),
        (GOOD.replace("[320, 240]", "[wide, high]"), "'wide', which is no finite"),
        (GOOD.replace("[320, 240]", "[true, 240]"), "'True', which is no finite"),
        (GOOD.replace("intrinsics: [", "intrinsics: [0, "), "holds 5 numbers, not 4"),
        (GOOD.replace("intrinsics: [", "intrinsics: [.nan, 0, 0, 0]\n  x: ["), "no finite number"),
        (GOOD.replace("intrinsics: [", "intrinsics: [0, 0, 0, 0]\n  x: ["), "is not [[fx"),
        (
            kalibr(cameras("fisheye")).replace("distortion_coeffs: [", "distortion_coeffs: [1, "),
            "has 5 coefficients",
        ),
        (GOOD.replace("distortion_coeffs: [", f"distortion_coeffs: [{'1, ' * 65}"), "more than 64"),
        (billions("x") + GOOD.replace("[320, 240]", "*x40", 1), "'a list', which is no finite number"),
        (billions("") + GOOD.replace("[320, 240]", "*x40", 1), "'a list', which is no finite number"),
        (billions("x") + GOOD.replace("pinhole", "*x40", 1), "'a list' is not read"),
        (GOOD.replace("T_cn_cnm1", "T_x"), "T_cam_imu is missing"),
        (GOOD.replace("T_cn_cnm1: [[", "T_cn_cnm1: [[9"), "not a rotation"),
        (GOOD.partition("  T_cn_cnm1")[0] + f"  T_cn_cnm1: {nested(np.eye(4))}", "at the same place"),
    ],
)
def test_what_is_no_calibration_is_refused_in_one_line_that_names_the_file(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=r"some\.yaml") as refused:
        read_calibration([path])
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_pipe_a_folder_and_a_missing_file_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none"):
        with pytest.raises(CalibrationError, match="not there, or no file"):
            read_calibration([tmp_path / name])
    with pytest.raises(CalibrationError, match="holds no calibration: looked for"):
        read_calibration([tmp_path])
    with pytest.raises(CalibrationError, match="the left and the right one: got 3"):
        read_calibration([tmp_path / "x"] * 3)


@pytest.mark.parametrize("model", MODELS)
def test_rows_of_known_cameras_agree_after_rectification_and_no_edge_is_black(model: Model) -> None:
    painted = PaintedCameras(cameras(model))
    left, right = painted.see(speckles(), 4.0, *pose(5, 10, 0))
    before = row_offset([matched_rows(left, right)], SIZE[0])
    rectifier = Rectifier(painted.calibration)
    one, other = rectifier.apply(left, right)
    after = row_offset([matched_rows(one, other)], SIZE[0])
    assert before is not None
    assert abs(before.px) > 4
    assert after is not None
    assert abs(after.px) < 0.5
    assert after.spread_px < 0.7
    assert one.shape == left.shape
    bright = np.full(SIZE, 255, np.uint8)
    assert all(image.min() > 250 for image in Rectifier(painted.calibration).apply(bright, bright))


@pytest.mark.parametrize("model", MODELS)
def test_points_of_known_cameras_have_equal_rows(model: Model) -> None:
    known = cameras(model)
    points = np.random.default_rng(0).uniform((-0.5, -0.4, 1.0), (0.5, 0.4, 3.0), (50, 1, 3))
    module = cv2.fisheye if model == "fisheye" else cv2
    turn = cv2.Rodrigues(known.rotation)[0]
    zero = np.zeros((3, 1))
    seen = [
        module.projectPoints(points, spin, move, eye.matrix, eye.distortion)[0].reshape(-1, 2)
        for eye, spin, move in ((known.left, zero, zero), (known.right, turn, known.translation.reshape(3, 1)))
    ]
    assert np.abs(seen[1][:, 1] - seen[0][:, 1]).max() > 5
    assert np.abs(row_errors(known, *seen)).max() < 0.01


def test_images_of_another_size_and_cameras_over_each_other_are_refused() -> None:
    known, image = cameras(), np.zeros((480, 640), np.uint8)
    with pytest.raises(
        CalibrationError, match="the images are 640x480, and the calibration is of 320x240: calibrate at"
    ):
        Rectifier(known).apply(image, image)
    above = StereoCalibration(known.left, known.right, np.eye(3), floats([0, -0.06, 0]), SIZE)
    apart = StereoCalibration(known.left, known.right, floats(np.diag([-1, 1, -1])), floats([-0.06, 0, 0]), SIZE)
    small = np.zeros(SIZE, np.uint8)
    with pytest.raises(CalibrationError, match="stand over each other"):
        Rectifier(above).apply(small, small)
    with pytest.raises(CalibrationError, match="see different things"):
        Rectifier(apart).apply(small, small)
