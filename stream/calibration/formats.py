"""What calibrations look like in the files of other tools: Kalibr, ROS, EuRoC and TUM-VI, KITTI, OpenCV.

Each function takes the keys and values of a file (`parse`), and raises CalibrationError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stream.calibration.stereo import (
    CalibrationError,
    Floats,
    Intrinsics,
    Model,
    StereoCalibration,
    intrinsics,
    inverse,
    relative,
)
from stream.calibration.yaml_file import in_words, numbers, sides

Table = Mapping[str, Any]

_MODELS: dict[str, Model] = {
    **dict.fromkeys(("radtan", "radial-tangential", "plumb_bob", "rational_polynomial", "none", ""), "pinhole"),
    **dict.fromkeys(("equidistant", "equi", "fisheye", "kannala_brandt"), "fisheye"),
}
"""How other tools name the models of distortion."""
_OPENCV = (
    ("K1", "D1", "K2", "D2"),
    ("M1", "D1", "M2", "D2"),
    ("cameraMatrix1", "distCoeffs1", "cameraMatrix2", "distCoeffs2"),
    ("camera_matrix_1", "dist_coeffs_1", "camera_matrix_2", "dist_coeffs_2"),
)


def is_one_eye(table: Table) -> bool:
    """Return whether a file holds one camera: EuRoC's sensor.yaml, or ROS's camera_info."""
    return "T_BS" in table or "camera_matrix" in table


def from_one(table: Table) -> StereoCalibration:
    """Read a file that holds both cameras."""
    if isinstance(table.get("cam0"), dict):
        return _kalibr(table)
    if "P0" in table or "P_rect_00" in table or "P_rect_02" in table:
        return _kitti(table)
    for names in _OPENCV:
        if all(name in table for name in names):
            return _opencv(table, names)
    if "LEFT.K" in table:
        return _orb_slam(table)
    raise CalibrationError(
        "its kind is not known: known are our own, Kalibr's camchain, KITTI's calib.txt, OpenCV's K1 D1 K2 D2 R T, and "
        "in two files ROS's camera_info and EuRoC's sensor.yaml"
    )


def from_two(left: Table, right: Table) -> StereoCalibration:
    """Read two files with a camera each."""
    if "T_BS" in left and "T_BS" in right:  # a transform from the camera to the body
        one, other = (_eye(table, "distortion_coefficients") for table in (left, right))
        rotation, translation = relative(*(inverse(numbers(table, "T_BS", (4, 4))) for table in (left, right)))
        size = _one(left, right, lambda table: sides(table, "resolution"))
        return StereoCalibration(one, other, rotation, translation, size, _model(left, right))
    if "camera_matrix" in left and "camera_matrix" in right:
        return _ros(left, right)
    raise CalibrationError("one file is of EuRoC and the other one of ROS: give the left and the right one of one tool")


def _kalibr(table: Table) -> StereoCalibration:
    left, right = table["cam0"], table.get("cam1")
    if not isinstance(right, dict):
        raise CalibrationError("it holds cam0 only: calibrate both cameras together")
    if "T_cn_cnm1" in right:
        between = numbers(right, "T_cn_cnm1", (4, 4))
        rotation, translation = between[:3, :3], between[:3, 3]
    else:
        rotation, translation = relative(*(numbers(cam, "T_cam_imu", (4, 4)) for cam in (left, right)))
    one, other = (_eye(cam, "distortion_coeffs") for cam in (left, right))
    size = _one(left, right, lambda cam: sides(cam, "resolution"))
    return StereoCalibration(one, other, rotation, translation, size, _model(left, right))


def _eye(table: Table, distortion: str) -> Intrinsics:
    if (model := table.get("camera_model", "pinhole")) != "pinhole":
        raise CalibrationError(
            f"camera_model {in_words(model)!r} is not read: calibrate with pinhole-radtan or pinhole-equi"
        )
    fx, fy, cx, cy = numbers(table, "intrinsics", (4,))
    return intrinsics(fx, fy, cx, cy, numbers(table, distortion))


def _ros(left: Table, right: Table) -> StereoCalibration:
    """Read camera_info: its rectification and projection say how the cameras stand to each other (REP 104)."""
    one, other = (
        Intrinsics(numbers(table, "camera_matrix", (3, 3)), numbers(table, "distortion_coefficients"))
        for table in (left, right)
    )
    to_left, to_right = (numbers(table, "rectification_matrix", (3, 3)) for table in (left, right))
    projection = numbers(right, "projection_matrix", (3, 4))
    if not projection[0, 3] or not projection[0, 0]:
        raise CalibrationError(
            "the right projection_matrix has no baseline: these are two cameras that were calibrated alone; calibrate them as "
            "a pair"
        )
    baseline = np.array([projection[0, 3] / projection[0, 0], 0, 0])
    size = _one(left, right, lambda table: (_whole(table, "image_height"), _whole(table, "image_width")))
    return StereoCalibration(one, other, to_right.T @ to_left, to_right.T @ baseline, size, _model(left, right))


def _kitti(table: Table) -> StereoCalibration:
    """Read calib.txt (odometry), whose images are rectified, or calib_cam_to_cam.txt (raw), which holds the cameras too."""
    if "P0" in table:
        first, second = (numbers(table, key, (3, 4)) for key in (("P2", "P3") if "P3" in table else ("P0", "P1")))
        left, right = (Intrinsics(projection[:, :3].copy(), np.zeros(0)) for projection in (first, second))
        baseline = np.array([(second[0, 3] - first[0, 3]) / (first[0, 0] or 1), 0, 0])
        return StereoCalibration(left, right, np.eye(3), baseline, rectified=True)
    names = ("02", "03") if "P_rect_03" in table else ("00", "01")
    turns = [numbers(table, f"R_{name}", (3, 3)) for name in names]
    moves = [numbers(table, f"T_{name}", (3,)) for name in names]
    left, right = (
        Intrinsics(numbers(table, f"K_{name}", (3, 3)), numbers(table, f"D_{name}", (5,), (4,))) for name in names
    )
    rotation = turns[1] @ turns[0].T
    size, rectified_size = sides(table, f"S_{names[0]}"), sides(table, f"S_rect_{names[0]}")
    between = moves[1] - rotation @ moves[0]
    return StereoCalibration(left, right, rotation, between, size, rectified_size=rectified_size)


def _opencv(table: Table, names: tuple[str, ...]) -> StereoCalibration:
    """Read what OpenCV's sample stereo_calib writes, and its like."""
    left, right = (
        Intrinsics(numbers(table, matrix, (3, 3)), numbers(table, distortion))
        for matrix, distortion in (names[:2], names[2:])
    )
    size = next((sides(table, key) for key in ("image_size", "imageSize", "size") if key in table), None)
    if size is None and "image_width" in table:
        size = _whole(table, "image_height"), _whole(table, "image_width")
    model = _MODELS.get(in_words(table.get("model", table.get("distortion_model", ""))).lower(), "pinhole")
    return StereoCalibration(left, right, numbers(table, "R", (3, 3)), numbers(table, "T", (3,)), size, model)


def _orb_slam(table: Table) -> StereoCalibration:
    """Read the settings of ORB-SLAM2, which hold rectification and projection as ROS does."""
    eyes = [
        {
            "camera_matrix": table.get(f"{eye}.K"),
            "distortion_coefficients": table.get(f"{eye}.D"),
            "rectification_matrix": table.get(f"{eye}.R"),
            "projection_matrix": table.get(f"{eye}.P"),
            "image_height": table.get(f"{eye}.height"),
            "image_width": table.get(f"{eye}.width"),
        }
        for eye in ("LEFT", "RIGHT")
    ]
    return _ros(*eyes)


def _model(left: Table, right: Table) -> Model:
    name = _one(left, right, lambda table: in_words(table.get("distortion_model", "")))
    if name.lower() not in _MODELS:
        known = ", ".join(filter(None, _MODELS))
        raise CalibrationError(f"distortion_model {name!r} is not read: known are {known}")
    return _MODELS[name.lower()]


def _one(left: Table, right: Table, read: Any) -> Any:
    """Return what is the same of both cameras."""
    one, other = read(left), read(right)
    if one != other:
        raise CalibrationError(f"the cameras differ: {one} left and {other} right")
    return one


def _whole(table: Table, key: str) -> int:
    value: Floats = numbers(table, key, (1,))
    return round(float(value[0]))
