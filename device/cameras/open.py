"""The table of all cameras. A new camera is one file in this folder and one row here."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any

from device.camera import DEFAULTS, Camera, CameraError, CameraSettings
from device.cameras import spec
from device.cameras.aligned import AlignedCamera, aligner
from device.cameras.custom import CustomCamera
from device.cameras.network import open_network, open_network_split
from device.cameras.oak import open_oak
from device.cameras.picamera import open_picamera2
from device.cameras.realsense import RealSenseCamera
from device.cameras.recorded.films import open_split, open_videos
from device.cameras.recorded.folders import open_folders
from device.cameras.v4l2 import open_v4l2, open_v4l2_split
from device.sim.camera import SimCamera, SimConfig

log = logging.getLogger(__name__)

DEVICES = ("/dev/video", "/dev/v4l/")
"""Where cameras are, also those that are unplugged now. Files may lie in /dev/shm."""


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
    --help. open: called with these names and the settings; raises CameraError, or ValueError for a setting.
    names: returns the names in a `--camera`, given the form. options: None, or the keys that `?key=value` may set after the name,
    which may then be left out; `open` gets them as keyword arguments.
    """

    form: str
    text: str
    origin: Origin
    open: Callable[..., Camera]
    names: Callable[[str, str], list[str]] = spec.files
    options: tuple[str, ...] | None = None

    @property
    def word(self) -> str:
        """The word before the colon."""
        return self.form.partition(":")[0]

    def open_named(self, text: str, settings: CameraSettings) -> Camera:
        """Open what a `--camera` names. Raises CameraError, or ValueError for a setting of the simulator."""
        if self.options is not None:
            name, options = spec.options(text)
            if odd := options.keys() - set(self.options):
                known = f"it has {', '.join(self.options)}" if self.options else "it has none"
                raise CameraError(f"{name.rstrip(':')} has no option {min(odd)}: {known}")
            return self.open(name.partition(":")[2], settings, **options)
        names = self.names(self.form, text)
        for name in names:
            if self.origin is Origin.RECORDING and (name.startswith(DEVICES) or Path(name).is_char_device()):
                hint = f"v4l2:LEFT,RIGHT for two, v4l2-sbs:{name} or v4l2-tb:{name} for one with both eyes"
                raise CameraError(f"{name} is a camera, not a file: {hint}")
        return self.open(*names, settings)


def open_sim(settings: CameraSettings, *, reward: bool = False) -> SimCamera:
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
            reward=reward,
        )
    )


def _open_sim(name: str, settings: CameraSettings, *, reward: str = "") -> Camera:
    if reward not in ("", "room"):
        raise CameraError(f"sim?reward={reward}: there is a reward for a new room alone, sim?reward=room")
    return open_sim(settings, reward=bool(reward))


def _open_dir(*names_and_settings: Any) -> Camera:
    """Open one root or folder, or two folders; the settings come last."""
    left, *right, settings = names_and_settings
    return open_folders(left, right[0] if right else None, settings)


def _open_video(*names_and_settings: Any) -> Camera:
    """Open two videos, or one, each frame of which is both eyes of a pair; the settings come last."""
    left, *right, settings = names_and_settings
    if not right:
        log.warning("video:%s is one video: each frame is both eyes of a pair (sbs: or tb: if both are in it)", left)
    return open_videos(left, right[0] if right else left, settings)


_RECORDED, _LIVE = Origin.RECORDING, Origin.HARDWARE
_KINDS = (
    CameraKind(
        "sim",
        "a walk through a simulated world (sim?reward=room: a reward in each new room)",
        Origin.SIMULATION,
        _open_sim,
        options=("reward",),
    ),
    CameraKind(
        "dir:LEFT,RIGHT",
        "two folders of images, dir:ROOT of EuRoC, TUM-VI or KITTI, or dir:FOLDER of one camera",
        _RECORDED,
        _open_dir,
        spec.one_or_two_files,
    ),
    CameraKind(
        "video:LEFT,RIGHT", "two videos, or video:FILE of one camera", _RECORDED, _open_video, spec.one_or_two_files
    ),
    CameraKind("sbs:FILE", "one video with both eyes side by side", _RECORDED, partial(open_split, "sbs")),
    CameraKind("tb:FILE", "one video with the left eye over the right one", _RECORDED, partial(open_split, "tb")),
    CameraKind("v4l2:0,2", "two USB cameras", _LIVE, open_v4l2),
    CameraKind("v4l2-sbs:0", "one USB camera with both eyes side by side", _LIVE, partial(open_v4l2_split, "sbs")),
    CameraKind(
        "v4l2-tb:0", "one USB camera with the left eye over the right one", _LIVE, partial(open_v4l2_split, "tb")
    ),
    CameraKind("picamera2:0,1", "two cameras of a Raspberry Pi", _LIVE, open_picamera2),
    CameraKind(
        "rtsp://LEFT,rtsp://RIGHT", "two network cameras (also rtsps, http, https)", _LIVE, open_network, spec.addresses
    ),
    CameraKind(
        "rtsp-sbs://ADDRESS",
        "one network camera with both eyes side by side (also http-sbs, ...)",
        _LIVE,
        partial(open_network_split, "sbs"),
        spec.addresses,
    ),
    CameraKind(
        "rtsp-tb://ADDRESS",
        "one network camera with the left eye over the right one (also http-tb, ...)",
        _LIVE,
        partial(open_network_split, "tb"),
        spec.addresses,
    ),
    CameraKind("oak:DEVICE", "an OAK-D (oak alone: the first one)", _LIVE, open_oak, options=("colour",)),
    CameraKind("realsense:SERIAL", "a RealSense (realsense alone: the first one)", _LIVE, RealSenseCamera, options=()),
)
_CLASS = CameraKind("package.module:Class", "a camera class of your own, perhaps ?key=value", _LIVE, CustomCamera)
CAMERAS = {kind.word: kind for kind in (*_KINDS, _CLASS)}


def camera_kind(text: str) -> CameraKind:
    """Return the kind of a camera such as "v4l2:0,2"; raises CameraError if there is no such kind."""
    address = spec.NETWORK.match(text)
    word = f"rtsp{address['layout'] or ''}" if address else re.split("[:?]", text, maxsplit=1)[0]
    if word in CAMERAS and word != _CLASS.word:
        return CAMERAS[word]
    if spec.CLASS.fullmatch(text):
        return _CLASS
    forms = ", ".join(kind.form for kind in CAMERAS.values())
    raise CameraError(f"no camera {spec.redacted(text)!r}: expected one of {forms}")


def open_camera(text: str, settings: CameraSettings = DEFAULTS) -> Camera:
    """Open the camera that `text` names; the settings decide whether its images are rectified or shifted.

    Raises CameraError, CalibrationError, or ValueError for a setting of the simulator.
    """
    kind, align = camera_kind(text), aligner(settings)
    if kind is _CLASS:
        name, options = spec.options(text)
        camera: Camera = CustomCamera(name, settings, **options)
    else:
        camera = kind.open_named(text, settings)
    return camera if align is None else AlignedCamera(camera, align)
