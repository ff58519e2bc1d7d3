"""Days of a rig that goes to a new world each morning, recorded once and replayed by every regime of the bench.

A day is a world of its own with its own photographs on the walls. Besides the recorded walk, two more walks through each world
are used for the probe only: one gives the bank, the other the test half of the places.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from benchmarks.shared.pairs import walk_pairs
from benchmarks.shared.probing import PLACES
from device.sim.camera import SimConfig
from device.sim.control_set import write_control_set
from learner.probes.control_sets import ControlSet, load_control
from stream.pair import EncodedPair
from stream.recording.source import RecordingSource
from stream.recording.writer import RecordingWriter

HOURS_OUT = 8.0
"""A day's pairs count as spread evenly over these hours from hour 0: 600 pairs make one pair in 48 s, as in the original
experiment."""
_DAY_NS = 24 * 3600 * 10**9
_WORLDS_A_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Route:
    """The worlds through which the rig goes, and how much it sends."""

    days: int
    pairs_a_day: int
    rooms_a_day: int
    size: tuple[int, int]
    """Height and width of the images, pixels."""
    per_place: int
    """Labelled views of each room, in each half of the places."""

    def world(self, seed: int, day: int, textures: Path | None) -> SimConfig:
        """Return the settings of the world of a day. day: from 0."""
        return SimConfig(
            size=self.size,
            seed=_WORLDS_A_SEED * seed + day,
            textures=textures,
            places=self.rooms_a_day,
            start_ns=SimConfig().start_ns + day * _DAY_NS,
        )


class RecordedDays:
    """The days of a seed as recordings in a folder. They are made if the folder has none of this route."""

    def __init__(self, folder: Path, route: Route, *, seed: int, textures: Path | None) -> None:
        self.route = route
        self.folder = folder / f"seed_{seed}"
        written = json.dumps({**asdict(route), "seed": seed, "textures": textures and str(textures)})
        label = self.folder / "itinerary.json"
        if not label.exists() or label.read_text() != written:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            cv2.setNumThreads(1)
            for day in range(route.days):
                self._record(day, route.world(seed, day, textures))
            label.write_text(written)

    def _record(self, day: int, world: SimConfig) -> None:
        with RecordingWriter(self._recording(day)) as writer:
            for pair in islice(walk_pairs(world), self.route.pairs_a_day):
                writer.write(pair)
        write_control_set(self._views(day), config=world, count=30_000, every=3, per_place=self.route.per_place)

    def _recording(self, day: int) -> Path:
        return self.folder / f"day_{day:02d}.mcap"

    def _views(self, day: int) -> Path:
        return self.folder / f"{PLACES}_{day:02d}"

    def pairs(self, day: int) -> list[EncodedPair]:
        """Return the pairs that the rig sent that day, in order."""
        return RecordingSource([self._recording(day)]).receive(self.route.pairs_a_day, 0.0)

    def days(self) -> Iterator[list[EncodedPair]]:
        """Yield the pairs of each day, one day after the other."""
        return (self.pairs(day) for day in range(self.route.days))

    def hours(self, day: int, pairs: list[EncodedPair]) -> dict[int, float]:
        """Return the hours from the first morning to the capture of each pair, by its capture time in nanoseconds."""
        numbered = enumerate(pairs)
        return {pair.header.left_ns: 24 * day + HOURS_OUT * number / len(pairs) for number, pair in numbered}

    def places(self, size: int) -> ControlSet:
        """Return a control set whose classes are the rooms of all days: `rooms_a_day` classes for each day, in this order.

        size: side of an image, pixels.
        """
        days = [load_control(f"{PLACES}={self._views(day)}", size=size) for day in range(self.route.days)]
        shift = np.arange(len(days)) * self.route.rooms_a_day
        return ControlSet(
            PLACES,
            np.concatenate([day.train_images for day in days]),
            np.concatenate([day.train_labels + first for day, first in zip(days, shift, strict=True)]),
            np.concatenate([day.test_images for day in days]),
            np.concatenate([day.test_labels + first for day, first in zip(days, shift, strict=True)]),
            tuple(f"day {number} {name}" for number, day in enumerate(days, 1) for name in day.classes),
        )
