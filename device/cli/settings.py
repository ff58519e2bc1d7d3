"""The settings of a rig, for its command line and its TOML file. The text under each field is its help."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device.camera import CameraSettings
from device.cameras.open import Origin, camera_kind
from device.dedupe import DedupeConfig
from stream.image import MAX_SIDE
from stream.pair import NAME, Codec

MAX_GIB = 4096
MAX_LINGER_S = 86400
MAX_LATE_MS = 86_400_000
MAX_SHIFT_PX = 1000
_DEDUPE = DedupeConfig()


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Publish the stereo pairs of a camera over ZeroMQ, without those that show nothing new."""

    config: Path | None = None
    """A TOML file with any of these settings, such as deploy/device.toml; a flag wins over it."""
    camera: str = "sim"
    """Kind of camera, and after a colon what to open, such as v4l2:0,2; `python -m device --help` lists the kinds. A comma in a
    name is written \\, with a backslash."""
    bind: str = "tcp://127.0.0.1:5555"
    """Where learners connect to. The port after it is used too, for the spool. Port 0 takes any two free ports. * as host means
    every network by IPv4, [::] by IPv6 too."""
    keys: Path | None = None
    """Folder of the keys (`python -m stream keys` makes them). Across a network keys are needed, by default those in the usual
    folder; on this machine alone they are used only if a folder is given."""
    insecure: bool = False
    """Work without keys: everybody on the network can see the images."""
    name: str | None = None
    """Name of this device in every pair; the host's name by default."""
    fps: float | None = None
    """Pairs per second; 0: as fast as the learner takes them; by default the camera's own rate, 10 for a folder."""
    repeat: bool = False
    """Begin a recording again at its end."""
    count: int | None = None
    """Stop after this many shots."""
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
    spool: str = "auto"
    """Where pairs are stored until learners have them: auto | none | FOLDER. auto: pairs of a real camera stay after the process
    has ended (in $STATE_DIRECTORY, or in babyagent/NAME in $XDG_STATE_HOME), others are deleted with it. none: pairs that the
    link drops are lost."""
    spool_gib: float | None = None
    """GiB that the spool may take before the oldest pairs are evicted; 8 by default, 2 if it is deleted with the process."""
    disk_floor_gib: float = 1.0
    """GiB of the disk that stay free."""
    linger_s: float = 60.0
    """After the last pair, wait until learners have made all pairs durable, but not for one that is silent for this long."""
    metrics_port: int = 0
    """Prometheus metrics at http://127.0.0.1:PORT/metrics; 0: none."""
    wait_for_learner: Literal["auto", "yes", "no"] = "auto"
    """Whether to wait for a learner before the first shot. auto: yes for a recording, for --count with sim and for --fps 0; then
    the rig also waits until every pair is taken. no: a pair that no learner takes is dropped."""
    json: bool = False
    """End with one line of JSON on the standard output."""

    def check(self) -> None:
        """Raise ValueError, with a message of one line, for a setting that cannot be used.

        The constructor does not check, because tyro would draw a box around its message.
        """
        if self.name is not None and not NAME.fullmatch(self.name):
            raise ValueError(
                f"--name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit, got {self.name!r}"
            )
        if not self.spool:
            raise ValueError("--spool is auto, none or a folder")
        ranges = (
            ("--fps", self.fps, 0, 1000, " (0: as fast as possible)"),
            ("--count", self.count, 1, math.inf, ""),
            ("--exposure-us", self.exposure_us, 1, 1e6, ""),
            ("--tolerance-ms", self.tolerance_ms, 0, 60_000, ""),
            ("--right-late-ms", self.right_late_ms, -MAX_LATE_MS, MAX_LATE_MS, ""),
            (
                "--row-shift-px",
                None if self.row_shift_px == "auto" else self.row_shift_px,
                -MAX_SHIFT_PX,
                MAX_SHIFT_PX,
                ", or auto",
            ),
            ("--quality", self.quality, 1, 100, ""),
            ("--spool-gib", self.spool_gib, 0.01, MAX_GIB, " (--spool none: no spool)"),
            ("--disk-floor-gib", self.disk_floor_gib, 0, MAX_GIB, ""),
            ("--linger-s", self.linger_s, 0, MAX_LINGER_S, " (0: do not wait)"),
            ("--metrics-port", self.metrics_port, 0, 65535, " (0: none)"),
        )
        for flag, value, low, high, hint in ranges:
            if value is not None and not low <= value <= high:
                raise ValueError(f"{flag} must be {low} to {high}{hint}, got {value}")
        if self.rectify and self.row_shift_px is not None:
            raise ValueError("--rectify and --row-shift-px both make rows equal: give one of them")
        if self.levels is not None and not -math.inf < self.levels[0] < self.levels[1] < math.inf:
            raise ValueError(f"--levels are two numbers, black before white, got {self.levels}")

    @property
    def device(self) -> str:
        """The name of the device in the header of each pair."""
        return self.name or host_name()

    @property
    def lossless(self) -> bool:
        """Whether the stream waits for its learner instead of dropping a pair: it can if it ends, or has no pace of its own."""
        origin = camera_kind(self.camera).origin
        ends = (origin is Origin.RECORDING and not self.repeat) or self.count is not None
        return origin is not Origin.HARDWARE and (ends or self.fps == 0) and self.wait_for_learner != "no"

    @property
    def lasting(self) -> bool:
        """Whether the pairs must survive the process, because those of hardware cannot be made again."""
        return camera_kind(self.camera).origin is Origin.HARDWARE

    @property
    def waits(self) -> bool:
        """Whether to wait for a learner before the first shot."""
        return self.lossless if self.wait_for_learner == "auto" else self.wait_for_learner == "yes"

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

    @property
    def dedupe(self) -> DedupeConfig:
        """The settings that concern dedupe. Raises ValueError for one that cannot be used."""
        return DedupeConfig(
            threshold=self.dedupe_threshold,
            target_per_hour=self.target_per_hour,
            max_silence_s=self.max_silence_s,
            audit_share=self.audit_share,
            ring=self.ring,
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


def format_counts(counts: Mapping[str, object]) -> str:
    """Format named numbers as one line for a person."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items())
