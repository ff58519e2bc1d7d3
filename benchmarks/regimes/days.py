"""Ten days of a rig that goes somewhere new each morning, recorded once: what every regime of the bench replays.

A day is a world of its own with photographs of its own on the walls. Beside the recorded walk two more walks of each world are
seen by nobody but the probe: the bank and the test half of the places.
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

from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from device.sim.control_set import write_control_set
from learner.probes.control_sets import ControlSet, load_control
from stream.pair import EncodedPair
from stream.recording.source import RecordingSource
from stream.recording.writer import RecordingWriter

HOURS_OUT = 8.0
"""A day's pairs are taken as spread evenly over so many hours, from its hour 0: 600 of them are one in 48 s, as the seed had."""
_DAY_NS = 24 * 3600 * 10**9
_WORLDS_A_SEED = 1000
PLACES = "places"


@dataclass(frozen=True, kw_only=True)
class Itinerary:
    """Where the rig goes and what it sends."""

    days: int
    pairs_a_day: int
    rooms_a_day: int
    size: tuple[int, int]
    """Height and width of the images, pixels."""
    per_place: int
    """Labelled views of each room, in each half of the places."""

    def world(self, seed: int, day: int, textures: Path | None) -> SimConfig:
        """The world of a day, from 0."""
        return SimConfig(
            size=self.size,
            seed=_WORLDS_A_SEED * seed + day,
            textures=textures,
            places=self.rooms_a_day,
            start_ns=SimConfig().start_ns + day * _DAY_NS,
        )


class Diary:
    """The recorded days of a seed in a folder, which is filled where it is not yet."""

    def __init__(self, folder: Path, itinerary: Itinerary, *, seed: int, textures: Path | None) -> None:
        self.itinerary = itinerary
        self._folder = folder / f"seed_{seed}"
        written = json.dumps({**asdict(itinerary), "seed": seed, "textures": textures and textures.name})
        label = self._folder / "itinerary.json"
        if not label.exists() or label.read_text() != written:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            for day in range(itinerary.days):
                self._record(day, itinerary.world(seed, day, textures))
            label.write_text(written)

    def _record(self, day: int, world: SimConfig) -> None:
        cv2.setNumThreads(1)
        rig = capture(
            SimCamera(world), Dedupe(DedupeConfig(), seed=world.seed), device="sim", epoch=f"{world.seed:032x}"
        )
        with RecordingWriter(self._recording(day)) as writer:
            for pair in islice(rig, self.itinerary.pairs_a_day):
                writer.write(pair)
        write_control_set(self._views(day), config=world, count=30_000, every=3, per_place=self.itinerary.per_place)

    def _recording(self, day: int) -> Path:
        return self._folder / f"day_{day:02d}.mcap"

    def _views(self, day: int) -> Path:
        return self._folder / f"{PLACES}_{day:02d}"

    def pairs(self, day: int) -> list[EncodedPair]:
        """What the rig sent that day, in order."""
        source = RecordingSource([self._recording(day)])
        return source.receive(self.itinerary.pairs_a_day, 0.0)

    def days(self) -> Iterator[list[EncodedPair]]:
        """One day after the other."""
        return (self.pairs(day) for day in range(self.itinerary.days))

    def hours(self, day: int, pairs: list[EncodedPair]) -> dict[int, float]:
        """When each pair was captured, hours since the first morning, by its header's time."""
        out = enumerate(pairs)
        return {pair.header.left_ns: 24 * day + HOURS_OUT * number / len(pairs) for number, pair in out}

    def places(self, size: int) -> ControlSet:
        """The rooms of all days as classes, `rooms_a_day` a day in their order; bank and test from two walks nobody streamed."""
        days = [
            load_control(f"{PLACES}={self._views(day)}", size=size, limit_train=None, limit_test=None)
            for day in range(self.itinerary.days)
        ]
        shift = np.arange(len(days)) * self.itinerary.rooms_a_day
        return ControlSet(
            PLACES,
            np.concatenate([day.train_images for day in days]),
            np.concatenate([day.train_labels + first for day, first in zip(days, shift, strict=True)]),
            np.concatenate([day.test_images for day in days]),
            np.concatenate([day.test_labels + first for day, first in zip(days, shift, strict=True)]),
            tuple(f"day {number} {name}" for number, day in enumerate(days, 1) for name in day.classes),
        )
