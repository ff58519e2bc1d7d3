"""`python -m device walk`: a labelled control set from the simulated world."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from device.camera import configure_opencv
from device.cli.capture_settings import parse_size
from device.cli.settings import format_counts
from device.sim.camera import SimConfig
from device.sim.control_set import write_control_set
from stream.host.command import Command
from stream.host.program import Result, Stop


@dataclass(frozen=True, kw_only=True)
class WalkSettings:
    """Write a labelled control set from the simulated world: OUT/train|test/place_XX/*.png."""

    out: Path
    """The folder to write; it must be empty or missing."""
    size: str | None = None
    """WIDTHxHEIGHT of the images; 320x240 by default."""
    seed: int = 0
    """Decides the world. Give the seed of the stream, so that the places are the same."""
    walk: int = 0
    """The walk that is streamed; training and test images come from the two walks after it."""
    textures: Path | None = None
    """A folder of photographs that hang in the world."""
    places: int = 16
    """Number of rooms, which are the classes."""
    count: int = 6000
    """Frames walked at most for each split."""
    every: int = 5
    """Use each n-th frame only."""
    per_place: int = 40
    """Images of a place in each split, at most."""
    json: bool = False
    """End with one line of JSON on the standard output."""


def run(settings: WalkSettings, stop: Stop) -> Result:
    """Write the set. Raises CameraError or ValueError for settings that cannot be used, InterruptedError at Ctrl-C."""
    configure_opencv()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an incomplete set has no use, so Ctrl-C ends at once
    config = SimConfig(
        size=parse_size(settings.size) or SimConfig.size,
        seed=settings.seed,
        walk=settings.walk,
        textures=settings.textures,
        places=settings.places,
    )
    try:
        with Console(stderr=True).status(f"painting {settings.places} places"):
            written = write_control_set(
                settings.out, config=config, count=settings.count, every=settings.every, per_place=settings.per_place
            )
    except KeyboardInterrupt as error:
        raise InterruptedError("interrupted, nothing was written") from error
    figures = {"folder": str(written.folder), "places": written.places, "images": written.images}
    return Result(format_counts(figures), figures)


COMMAND = Command(run=run, settings=WalkSettings, description=WalkSettings.__doc__ or "")
