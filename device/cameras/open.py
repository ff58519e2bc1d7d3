"""The table of all cameras. A new camera is one file in this folder and one row here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from device.camera import DEFAULTS, Camera, CameraError, CameraSettings
from device.cameras.files import open_folders, open_side_by_side, open_videos
from device.cameras.picamera import Picamera2Camera
from device.cameras.v4l2 import V4l2Camera
from device.sim.camera import SimCamera, SimConfig


class Origin(Enum):
    """Where the shots of a camera come from, which decides whether it can wait for a learner."""

    SIMULATION = auto()
    """Shots are made when they are requested, without end."""
    RECORDING = auto()
    """Shots are read when they are requested, until the recording ends; one that repeats does not end."""
    HARDWARE = auto()
    """Shots come at the hardware's own pace; a shot that was not taken is lost."""


@dataclass(frozen=True, slots=True)
class CameraKind:
    """A row of the table.

    form: the word for `--camera`, then a colon and one name for each file or device that it opens. text: its description in
    --help. open: called with these names, as strings, and the settings; raises CameraError, or ValueError for a setting.
    """

    form: str
    text: str
    origin: Origin
    open: Callable[..., Camera]

    @property
    def word(self) -> str:
        """The word before the colon."""
        return self.form.partition(":")[0]

    def names_in(self, spec: str) -> list[str]:
        """Return the names after the colon of `spec`. Raises CameraError unless there are as many as in `form`."""
        expected, given = (text.partition(":")[2] for text in (self.form, spec))
        if not expected:
            return []
        names = given.split(",") if "," in expected else [given]
        if not all(names) or len(names) != len(expected.split(",")):
            raise CameraError(f"{spec!r} does not name what to open: expected {self.form}")
        return names


def open_sim(settings: CameraSettings) -> SimCamera:
    """Open the simulated camera. Raises CameraError if the folder of textures holds no photograph, ValueError for a setting."""
    return SimCamera(
        SimConfig(
            size=settings.size or SimConfig.size,
            seed=settings.seed,
            walk=settings.walk,
            textures=settings.textures,
            places=settings.places,
            fps=settings.fps or SimConfig.fps,
            start_ns=time.time_ns() if settings.start_ns is None else settings.start_ns,
        )
    )


_KINDS = (
    CameraKind("sim", "a walk through a simulated world", Origin.SIMULATION, open_sim),
    CameraKind("dir:LEFT,RIGHT", "two folders of images with the same names", Origin.RECORDING, open_folders),
    CameraKind("video:LEFT,RIGHT", "two videos", Origin.RECORDING, open_videos),
    CameraKind("sbs:FILE", "one video with both eyes side by side", Origin.RECORDING, open_side_by_side),
    CameraKind("v4l2:0,2", "two USB cameras", Origin.HARDWARE, V4l2Camera),
    CameraKind("picamera2:0,1", "two cameras of a Raspberry Pi", Origin.HARDWARE, Picamera2Camera),
)
CAMERAS = {kind.word: kind for kind in _KINDS}


def camera_kind(spec: str) -> CameraKind:
    """Return the kind of a camera such as "v4l2:0,2"; raises CameraError if there is no such kind."""
    word = spec.partition(":")[0]
    if word not in CAMERAS:
        raise CameraError(f"no camera {spec!r}: expected one of {', '.join(kind.form for kind in _KINDS)}")
    return CAMERAS[word]


def open_camera(spec: str, settings: CameraSettings = DEFAULTS) -> Camera:
    """Open the camera that `spec` names. Raises CameraError, or ValueError for a setting of the simulator."""
    kind = camera_kind(spec)
    return kind.open(*kind.names_in(spec), settings)
