"""What can be set on the command line of the rig; each field's text is its help."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device.cameras.open import FINITE, HARDWARE, camera_kind
from device.dedupe import DedupeConfig
from stream.pair import MAX_SIDE, Codec

MAX_GIB = 4096
MAX_LINGER_S = 86400
_DEDUPE = DedupeConfig()
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Publish the stereo pairs of a camera over ZeroMQ, without those that show nothing new."""

    config: Path | None = None
    """A TOML file with any of these settings, as in deploy/device.toml; a flag wins over it."""
    camera: str = "sim"
    """sim | dir:LEFT,RIGHT | video:LEFT,RIGHT | sbs:FILE | v4l2:0,2 | picamera2:0,1"""
    bind: str = "tcp://127.0.0.1:5555"
    """Where learners connect to, and at the port after it for the spool; port 0 takes any two, * as host is every network."""
    keys: Path | None = None
    """Folder of the keys (`python -m stream keys` makes them). Off the loopback they are needed, and looked for in the usual
    place; on it they are used where this is given."""
    insecure: bool = False
    """Do without keys: anybody on the network sees the images."""
    name: str | None = None
    """Name of this device in every pair; the host's name by default."""
    fps: float | None = None
    """Pairs a second; 0: as fast as the learner takes them; by default the camera's own rate, 10 for a folder."""
    repeat: bool = False
    """Begin a recording again at its end."""
    count: int | None = None
    """Stop after this many shots."""
    codec: Codec = "jpeg"
    """jpeg forwards a camera's own JPEG untouched; lz4 is lossless and large, for simulated images."""
    quality: int = 92
    """Of the JPEG (1-100) where the camera gives pixels."""
    size: str | None = None
    """WIDTHxHEIGHT of sim (320x240) or asked of the hardware (1280x720)."""
    seed: int = 0
    """Of the simulated world and of the audit."""
    walk: int = 0
    """Which way sim walks through its world."""
    textures: Path | None = None
    """A folder of photographs to hang into the simulated world."""
    places: int = 16
    """Rooms of the simulated world."""
    dedupe_threshold: float = _DEDUPE.threshold
    """Grey levels by which some tile must differ for a pair to be new; raise it on a vibrating mount."""
    target_per_hour: float | None = None
    """Move the threshold so that this many pairs an hour are kept: for a link, a card or a battery with a budget."""
    max_silence_s: float = _DEDUPE.max_silence_s
    """Keep a pair at the latest this long after the last one; inf: never for that reason."""
    audit_share: float = _DEDUPE.audit_share
    """Keep this share of the suppressed pairs at random, to measure what suppression loses."""
    ring: int = _DEDUPE.ring
    """Earlier pairs remembered, so that coming back to a place is no news."""
    spool: str = "auto"
    """Where pairs lie until learners have them: auto | none | FOLDER. auto: a real camera's pairs outlast the process
    ($STATE_DIRECTORY, or babyagent/NAME in $XDG_STATE_HOME), others go with it; none: what the link drops is lost."""
    spool_gib: float | None = None
    """GiB that the spool may take, then the oldest pairs go; 8 by default, 2 where it goes with the process."""
    disk_floor_gib: float = 1.0
    """GiB of the disk that stay free."""
    linger_s: float = 60.0
    """After the last pair, wait for learners to make all pairs durable; not for one that is silent for longer than this."""
    metrics_port: int = 0
    """Prometheus metrics at http://127.0.0.1:PORT/metrics; 0: none."""
    wait_for_learner: Literal["auto", "yes", "no"] = "auto"
    """Whether to wait for a learner before the first shot; auto: yes for a recording, for --count with sim and with
    --fps 0, and then also for every pair to be taken; no: a pair that nobody takes is dropped."""
    json: bool = False
    """End with one line of JSON on the standard output."""

    def check(self) -> None:
        """Raise ValueError in one line for a setting that cannot be (not on construction: tyro would put it in a box)."""
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise ValueError(
                f"--name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with one of the first, got {self.name!r}"
            )
        if self.fps is not None and not 0 <= self.fps <= 1000:
            raise ValueError(f"--fps must be 0 (as fast as possible) to 1000, got {self.fps}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"--count must be at least 1, got {self.count}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality must be 1 to 100, got {self.quality}")
        if self.spool_gib is not None and not 0.01 <= self.spool_gib <= MAX_GIB:
            raise ValueError(f"--spool-gib must be 0.01 to {MAX_GIB}, got {self.spool_gib}; --spool none: no spool")
        if not 0 <= self.disk_floor_gib <= MAX_GIB:
            raise ValueError(f"--disk-floor-gib must be 0 to {MAX_GIB}, got {self.disk_floor_gib}")
        if not 0 <= self.linger_s <= MAX_LINGER_S:
            raise ValueError(f"--linger-s must be 0 (do not wait) to {MAX_LINGER_S}, got {self.linger_s}")
        if not self.spool:
            raise ValueError("--spool is auto, none or a folder")
        if not 0 <= self.metrics_port <= 65535:
            raise ValueError(f"--metrics-port must be 0 (none) to 65535, got {self.metrics_port}")

    @property
    def lossless(self) -> bool:
        """Whether the stream waits for its learner, rather than let a pair go: what ends, or has no pace, can wait."""
        kind = camera_kind(self.camera)
        ends = (kind in FINITE and not self.repeat) or self.count is not None
        return kind not in HARDWARE and (ends or self.fps == 0) and self.wait_for_learner != "no"

    @property
    def lasting(self) -> bool:
        """Whether the pairs of this camera are to outlast the process: those of the others can be made again."""
        return camera_kind(self.camera) in HARDWARE

    @property
    def waits(self) -> bool:
        """Whether to wait for a learner before the first shot."""
        return self.lossless if self.wait_for_learner == "auto" else self.wait_for_learner == "yes"


@dataclass(frozen=True, kw_only=True)
class WalkSettings:
    """Write a labelled control set from the simulated world: OUT/train|test/place_XX/*.png."""

    out: Path
    """A folder that is empty or not there yet."""
    size: str | None = None
    """WIDTHxHEIGHT of the images; 320x240 by default."""
    seed: int = 0
    """Of the world: the same as the stream's, so that the places are the same."""
    walk: int = 0
    """The streamed walk; training and test images come from the two walks after it."""
    textures: Path | None = None
    """A folder of photographs to hang into the world."""
    places: int = 16
    """Rooms, which are the classes."""
    count: int = 6000
    """Frames walked at most for each split."""
    every: int = 5
    """Take each n-th frame."""
    per_place: int = 40
    """Images of a place in each split, at most."""
    json: bool = False
    """End with one line of JSON on the standard output."""


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Height and width from WIDTHxHEIGHT."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None or not all(1 <= int(side) <= MAX_SIDE for side in match.groups()):
        raise ValueError(f"--size is WIDTHxHEIGHT with sides of 1 to {MAX_SIDE}, for example 320x240, got {text!r}")
    return int(match[2]), int(match[1])
