"""Labelled control sets from the simulated world: left images of two walks, in one folder for each place.

Training and test images come from different walks, so that a probe has to recognise the place and not the image. Neither is the
walk that is streamed.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2

from device.camera import CameraError
from device.sim.camera import SimCamera, SimConfig
from device.sim.render import Pose

_Frame = tuple[int, Pose]


@dataclass(frozen=True, slots=True)
class ControlSetSummary:
    """The written files: `<folder>/train|test/place_XX/NNNNNN.png`, with `per_place` images in each folder."""

    folder: Path
    places: int
    per_place: int

    @property
    def images(self) -> int:
        """Number of images in both splits together."""
        return 2 * self.places * self.per_place


def write_control_set(
    folder: Path, *, config: SimConfig | None = None, count: int = 6000, every: int = 5, per_place: int = 40
) -> ControlSetSummary:
    """Write left images labelled by place, the same number for every place and split.

    config: the world and the walk that is streamed; the two walks are the next ones after it.
    count: frames walked in each split. every: only each n-th of them is used. per_place: images of each place; if the rarest
    place has fewer, all places get as few. They are spread over the whole walk.
    Raises CameraError if the folder is not empty, ValueError if a place is never seen within `count` frames.
    """
    config = config if config is not None else SimConfig()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CameraError(f"{folder} is not an empty folder: name one that is empty or does not exist yet")
    if min(count, every, per_place) < 1:
        raise ValueError(f"count, every and per_place must be at least 1, got {count}, {every} and {per_place}")
    first = SimCamera(config, walk=config.walk + 1)
    second = SimCamera(config, world=first.world, walk=config.walk + 2)
    splits = {"train": (first, _frames(first, count, every)), "test": (second, _frames(second, count, every))}
    enough = min(per_place, *(len(frames) for _, by_place in splits.values() for frames in by_place))
    if not enough:
        raise ValueError(f"some of {config.places} places are not visited in {count} frames: raise count")
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for split, (camera, by_place) in splits.items():
            for place, frames in enumerate(by_place):
                _write(draft / split / f"place_{place:02d}", camera, _spread(frames, enough))
        draft.rename(folder)  # in one step, over an empty folder too, so that a set is complete or missing
    except OSError as error:
        raise CameraError(f"cannot write {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return ControlSetSummary(folder, config.places, enough)


def _frames(camera: SimCamera, count: int, every: int) -> list[list[_Frame]]:
    """Return the candidate frames of each place, without painting them."""
    by_place: dict[int, list[_Frame]] = defaultdict(list)
    for index, pose in islice(enumerate(camera.poses()), 0, count, every):
        by_place[pose.place].append((index, pose))
    return [by_place[place] for place in range(camera.config.places)]


def _spread(frames: list[_Frame], number: int) -> list[_Frame]:
    """Choose `number` frames, spread evenly."""
    return [frames[k * len(frames) // number] for k in range(number)]


def _write(folder: Path, camera: SimCamera, frames: list[_Frame]) -> None:
    folder.mkdir(parents=True)
    for index, pose in frames:
        if not cv2.imwrite(str(folder / f"{index:06d}.png"), camera.left_view(index, pose)):
            raise CameraError(f"cannot write into {folder}: is the disk full?")
