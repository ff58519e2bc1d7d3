"""Calibrations in files: ours is written, ours and those of other tools are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from stream.calibration import formats
from stream.calibration.stereo import CalibrationError, Intrinsics, Model, StereoCalibration, floats
from stream.calibration.yaml_file import parse, read_text
from stream.errors import reported_as
from stream.fsync import replace_file

PLACES: tuple[tuple[str, ...], ...] = (
    ("calibration.json",),
    ("mav0/cam0/sensor.yaml", "mav0/cam1/sensor.yaml"),  # EuRoC, TUM-VI
    ("cam0/sensor.yaml", "cam1/sensor.yaml"),
    ("camchain.yaml",),
    ("dso/camchain.yaml",),  # TUM-VI
    ("calib.txt",),  # KITTI odometry
    ("calib_cam_to_cam.txt",),  # KITTI raw
    ("../calib_cam_to_cam.txt",),
    ("left.yaml", "right.yaml"),  # ROS
)
"""Where a calibration is below the root of a data set; the first that is there counts."""


class _Eye(msgspec.Struct):
    camera_matrix: list[list[float]]
    distortion: list[float]


class _File(msgspec.Struct, kw_only=True):
    """Our own format. Keys that are not known are left out, so that a later version may add some."""

    format: Literal["babyagent-stereo-calibration"] = "babyagent-stereo-calibration"
    version: Literal[1] = 1
    width: int
    height: int
    model: Model
    left: _Eye
    right: _Eye
    rotation: list[list[float]]
    translation_m: list[float]
    quality: dict[str, float] = {}


def find_calibration(root: Path) -> tuple[Path, ...] | None:
    """Return the files of the calibration that belongs to the root of a data set; None if it has none."""
    for names in PLACES:
        if all((root / name).is_file() for name in names):
            return tuple(root / name for name in names)
    return None


def read_calibration(paths: Sequence[Path]) -> StereoCalibration:
    """Read one file with both cameras, the left and the right file, or what is found in the root of a data set.

    Raises CalibrationError, which names the file.
    """
    name = ", ".join(map(str, paths))
    if len(paths) == 1 and paths[0].is_dir():
        found = find_calibration(paths[0])
        if found is None:
            known = ", ".join(" and ".join(names) for names in PLACES)
            raise CalibrationError(f"{name} holds no calibration: looked for {known}")
        return read_calibration(found)
    if not 1 <= len(paths) <= 2:
        raise CalibrationError(f"a calibration is one file, or the left and the right one: got {len(paths)}")
    texts = [read_text(path) for path in paths]
    try:
        if texts[0].lstrip().startswith("{"):
            return _decoded(texts[0])
        tables = [parse(text, str(path)) for text, path in zip(texts, paths, strict=True)]
        return _of(tables)
    except CalibrationError as error:
        text = str(error)
        raise CalibrationError(text if str(paths[0]) in text else f"{name}: {text}") from error


def write_calibration(path: Path, calibration: StereoCalibration, quality: Mapping[str, float]) -> None:
    """Write a calibration, so that the file is never half of it. quality: figures beside it. Raises CalibrationError."""
    height, width = calibration.size or (0, 0)
    left, right = (_Eye(eye.matrix.tolist(), eye.distortion.tolist()) for eye in (calibration.left, calibration.right))
    content = _File(
        width=width,
        height=height,
        model=calibration.model,
        left=left,
        right=right,
        rotation=calibration.rotation.tolist(),
        translation_m=calibration.translation.tolist(),
        quality=dict(quality),
    )
    with reported_as(CalibrationError, f"{path} cannot be written"):
        replace_file(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def _of(tables: Sequence[Mapping[str, Any]]) -> StereoCalibration:
    ones = [formats.is_one_eye(table) for table in tables]
    if len(tables) == 2 and all(ones):
        return formats.from_two(*tables)
    if any(ones):
        raise CalibrationError("it holds one camera: give two files, the left and the right one")
    return formats.from_one({key: value for table in tables for key, value in table.items()})  # OpenCV's may be two


def _decoded(text: str) -> StereoCalibration:
    try:
        file = msgspec.json.decode(text, type=_File)
        left, right = (Intrinsics(floats(eye.camera_matrix), floats(eye.distortion)) for eye in (file.left, file.right))
        rotation, translation = floats(file.rotation), floats(file.translation_m)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CalibrationError(f"it is no calibration of ours: {str(error)[:200]}") from error
    return StereoCalibration(left, right, rotation, np.ravel(translation), (file.height, file.width), file.model)
