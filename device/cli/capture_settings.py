"""The settings by which the shots of a camera become pairs, for every command that opens one. The text under each is its help."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.constructors import PrimitiveConstructorSpec

from device.camera import CameraSettings
from device.cameras.custom import open_signals
from device.cameras.open import Origin, camera_kind
from device.dedupe import DedupeConfig
from device.signals import ReadSignals, labelled
from stream.image import MAX_SIDE
from stream.pair import NAME, Codec
from stream.signals.signal import Telemetry, is_label

MIN_FPS, MAX_FPS = 1e-4, 1000.0
"""Slower than the first, which is a pair in three hours, the times of a folder's images would soon be beyond 64 bits."""
MAX_LATE_MS = 86_400_000
MAX_SHIFT_PX = 1000
MAX_COUNT = 2**62
MAX_SEED = 2**63
_DEDUPE = DedupeConfig()

Bound = tuple[str, float | None, float, float, str]
"""A flag, its value, the smallest and the largest one, and a hint."""
Repeat = Annotated[
    bool | int,
    PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[N]",
        instance_from_str=lambda words: int(words[0]) if words else True,
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [] if value is True else [str(max(1, value))],
    ),
]
"""How often a recording is played: True: without end; False: once."""
DedupeChoice = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class CaptureSettings:
    """How the shots of any camera become pairs."""

    name: str | None = None
    """Name of this device in every pair; by default the host's name, without a network the kind of the camera."""
    fps: float | None = None
    """Pairs per second, which hardware is asked for, and which give the images of a folder their times; by default the camera's
    own rate, 10 for a folder. 0: as fast as the learner takes them."""
    codec: Codec = "jpeg"
    """jpeg forwards a camera's own JPEG untouched; lz4 is lossless and large, for simulated images."""
    quality: int = 92
    """Quality of the JPEG (1-100) if the camera gives pixels."""
    size: str | None = None
    """WIDTHxHEIGHT of the simulated images (320x240), or requested from the hardware (1280x720)."""
    exposure_us: float | None = None
    """Exposure time in microseconds that is requested from the hardware; automatic by default. A short one keeps a moving rig
    sharp."""
    whole_field: bool = False
    """With picamera2: use a sensor mode that shows the whole field of view. By default the mode nearest to --size is used, which
    may show only the middle."""
    tolerance_ms: float | None = None
    """Images of two films or folders that are further apart, in milliseconds, make no pair; by default half of the shorter frame
    interval."""
    right_late_ms: float = 0.0
    """How many milliseconds later than the left film or folder the right one began, if its times do not say so."""
    levels: tuple[float, float] | None = None
    """What is black and what is white in images of 10 to 16 bits, such as 0 4095. By default a sample of the recording decides:
    the same for both eyes and for the whole recording."""
    rectify: tuple[Path, ...] = ()
    """A calibration, by which things come into the same row of both images: one file (of `python -m device calibrate`, Kalibr,
    OpenCV), the left and the right one (ROS, EuRoC), or the root of a data set that has one."""
    row_shift_px: int | Literal["auto"] | None = None
    """How many pixels lower things are in the right image, which is corrected by cutting rows off: a number (below 0: higher), or
    auto, as the first shots show it. `python -m device doctor` measures it."""
    seed: int = 0
    """Decides the simulated world, and which suppressed pairs are kept for the audit."""
    walk: int = 0
    """Decides the path and the light in the simulated world."""
    textures: Path | None = None
    """A folder of photographs that hang in the simulated world."""
    places: int = 16
    """Number of rooms of the simulated world."""
    dedupe_threshold: float = _DEDUPE.threshold
    """A pair is new if some tile differs by more grey levels than this; raise it on a vibrating mount."""
    target_per_hour: float | None = None
    """Move the threshold so that this many pairs are kept per hour: for a link, a card or a battery with a budget."""
    max_silence_s: float = _DEDUPE.max_silence_s
    """Keep a pair if none was kept for this long; inf: never for that reason."""
    audit_share: float = _DEDUPE.audit_share
    """Keep this share of the suppressed pairs at random, to measure what suppression loses."""
    ring: int = _DEDUPE.ring
    """Number of earlier pairs that are remembered, so that a return to a place is not new."""
    signals: str | None = None
    """What the rig measures beside its images: package.module:function, or package.module:Class?key=value. It is called after
    each shot and returns a Telemetry (stream/signals/signal.py)."""
    episode: str = ""
    """Name of the trial to which the pairs belong, if what reads signals names none."""
    subject: str = ""
    """Name of who or what wears the rig, if what reads signals names none."""

    def check(self) -> None:
        """Raise ValueError, with a message of one line, for a setting that cannot be used.

        The constructor does not check, because tyro would draw a box around its message.
        """
        if self.name is not None and not NAME.fullmatch(self.name):
            raise ValueError(
                f"--name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit, got {self.name!r}"
            )
        for flag, value, low, high, hint in self.bounds():
            if value is not None and not low <= value <= high:
                raise ValueError(f"{flag} must be {low} to {high}{hint}, got {value}")
        for flag, text in (("--episode", self.episode), ("--subject", self.subject)):
            if not is_label(text):
                raise ValueError(
                    f"{flag} is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit, got {text!r}"
                )
        if self.rectify and self.row_shift_px is not None:
            raise ValueError("--rectify and --row-shift-px both make rows equal: give one of them")
        if self.levels is not None and not -math.inf < self.levels[0] < self.levels[1] < math.inf:
            raise ValueError(f"--levels are two numbers, black before white, got {self.levels}")

    def bounds(self) -> Iterator[Bound]:
        """Yield the bounds of the numbers among the settings."""
        shift = None if self.row_shift_px == "auto" else self.row_shift_px
        yield "--fps", self.fps or None, MIN_FPS, MAX_FPS, " (0: as fast as possible)"
        yield "--exposure-us", self.exposure_us, 1, 1e6, ""
        yield "--tolerance-ms", self.tolerance_ms, 0, 60_000, ""
        yield "--right-late-ms", self.right_late_ms, -MAX_LATE_MS, MAX_LATE_MS, ""
        yield "--row-shift-px", shift, -MAX_SHIFT_PX, MAX_SHIFT_PX, ", or auto"
        yield "--quality", self.quality, 1, 100, ""
        yield "--seed", self.seed, 0, MAX_SEED, ""


@dataclass(frozen=True, kw_only=True)
class RigSettings(CaptureSettings):
    """A camera, and how its shots become pairs."""

    camera: str = "sim"
    """Kind of camera, and after a colon what to open, such as v4l2:0,2; `python -m device --help` lists the kinds. A comma in a
    name is written \\, with a backslash."""
    repeat: Repeat = False
    """Play a recording N times; --repeat alone: without end."""
    count: int | None = None
    """Stop after this many shots."""
    dedupe: DedupeChoice = "auto"
    """off: no shot is left out, neither as seen before nor as junk. auto: off for folders that are repeated, whose images would
    otherwise count as seen before; else on."""

    def bounds(self) -> Iterator[Bound]:
        """See CaptureSettings."""
        yield from super().bounds()
        yield "--repeat", None if self.repeat is False else self.repeat, 1, 10**9, " times"
        yield "--count", self.count, 1, MAX_COUNT, " shots"

    @property
    def origin(self) -> Origin:
        """Where the shots come from. Raises CameraError for a camera that does not exist."""
        return camera_kind(self.camera).origin

    @property
    def ends(self) -> bool:
        """Whether the shots end by themselves."""
        return (self.origin is Origin.RECORDING and self.repeat is not True) or self.count is not None

    @property
    def camera_settings(self) -> CameraSettings:
        """The settings that concern the camera. Raises ValueError for a size that cannot be used."""
        return CameraSettings(
            fps=self.fps,
            repeat=self.repeat,
            size=parse_size(self.size),
            exposure_us=self.exposure_us,
            whole_field=self.whole_field,
            tolerance_ms=self.tolerance_ms,
            right_late_ms=self.right_late_ms,
            levels=self.levels,
            rectify=self.rectify,
            row_shift_px=self.row_shift_px,
            seed=self.seed,
            walk=self.walk,
            textures=self.textures,
            places=self.places,
        )

    def open_signals(self) -> ReadSignals | None:
        """Return what reads signals, None if nothing does. Raises CameraError."""
        labels = Telemetry(episode=self.episode, subject=self.subject)
        if self.signals is None:
            return (lambda captured_ns: labels) if labels else None
        return labelled(open_signals(self.signals), labels)

    @property
    def dedupe_config(self) -> DedupeConfig:
        """The settings that concern dedupe. Raises ValueError for one that cannot be used."""
        is_album = camera_kind(self.camera).word == "dir" and (self.repeat is True or self.repeat > 1)
        return DedupeConfig(
            threshold=self.dedupe_threshold,
            target_per_hour=self.target_per_hour,
            max_silence_s=self.max_silence_s,
            audit_share=self.audit_share,
            ring=self.ring,
            off=self.dedupe == "off" or (self.dedupe == "auto" and is_album),
        )


def host_name() -> str:
    """Return the host's name; characters that are not allowed in a header are replaced."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).lstrip("._-")[:64]
    return name or "baby"


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of a text WIDTHxHEIGHT; None for None. Raises ValueError."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None or not all(1 <= int(side) <= MAX_SIDE for side in match.groups()):
        raise ValueError(f"--size is WIDTHxHEIGHT with sides of 1 to {MAX_SIDE}, for example 320x240, got {text!r}")
    return int(match[2]), int(match[1])
