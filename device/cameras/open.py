"""From the words `--camera sim`, `dir:LEFT,RIGHT`, ... to a camera."""

from __future__ import annotations

import time
from pathlib import Path

from device.camera import Camera, CameraError
from device.cameras.files import open_folders, open_side_by_side, open_videos
from device.cameras.picamera import Picamera2Camera
from device.cameras.v4l2 import V4l2Camera
from device.sim.camera import SimCamera

FORMS = {
    "sim": "sim",
    "dir": "dir:LEFT,RIGHT",
    "video": "video:LEFT,RIGHT",
    "sbs": "sbs:FILE",
    "v4l2": "v4l2:0,2",
    "picamera2": "picamera2:0,1",
}
FINITE = frozenset({"dir", "video", "sbs"})
"""They end, unless they repeat."""
HARDWARE = frozenset({"v4l2", "picamera2"})
"""They set the pace themselves and cannot wait."""

SIM_FPS = 10.0
SIM_SIZE = (240, 320)
HARDWARE_FPS = 30.0
HARDWARE_SIZE = (720, 1280)


def camera_kind(spec: str) -> str:
    """The word before the colon; raises CameraError where there is no such camera."""
    kind = spec.partition(":")[0]
    if kind not in FORMS:
        raise CameraError(f"no camera {spec!r}: expected one of {', '.join(FORMS.values())}")
    return kind


def open_camera(
    spec: str,
    *,
    fps: float | None = None,
    repeat: bool = False,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    walk: int = 0,
    textures: Path | None = None,
    places: int = 16,
    start_ns: int | None = None,
) -> Camera:
    """Open the camera that `spec` names.

    fps: asked of the hardware, or the distance of a recording's times; None or 0: the camera's own rate.
    repeat: a recording begins again at its end. size: height, width, asked of sim and hardware.
    seed, walk, textures, places: of sim. start_ns: time of the first shot where there is no real one; now by default.
    Raises CameraError with a sentence for a person, ValueError for a setting of sim that cannot be.
    """
    kind, rest = camera_kind(spec), spec.partition(":")[2]
    if kind == "sim":
        return SimCamera(
            size=size or SIM_SIZE,
            seed=seed,
            walk=walk,
            textures=textures,
            places=places,
            fps=fps or SIM_FPS,
            start_ns=time.time_ns() if start_ns is None else start_ns,
        )
    if kind == "sbs":
        if not rest:
            raise CameraError(f"{spec!r} names no file: expected {FORMS[kind]}")
        return open_side_by_side(Path(rest), rate_fps=fps, repeat=repeat, start_ns=start_ns)
    left, right = _two(spec, rest, kind)
    if kind in FINITE:
        opened = open_folders if kind == "dir" else open_videos
        return opened(Path(left), Path(right), rate_fps=fps, repeat=repeat, start_ns=start_ns)
    hardware = V4l2Camera if kind == "v4l2" else Picamera2Camera
    return hardware(left, right, size=size or HARDWARE_SIZE, rate_fps=fps or HARDWARE_FPS)


def _two(spec: str, rest: str, kind: str) -> tuple[str, str]:
    parts = rest.split(",")
    if len(parts) != 2 or not all(parts):
        raise CameraError(f"{spec!r} does not name a left and a right one: expected {FORMS[kind]}")
    return parts[0], parts[1]
