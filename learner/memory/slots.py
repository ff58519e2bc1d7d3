"""Slots for the images of pairs, on one canvas size: a batch is one gather."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Container, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from buffer.index import Keys
from learner.errors import SettingsError
from learner.memory.measured import Measured
from learner.views.contract import Batch

if TYPE_CHECKING:  # the bench on a GPU runs without the packages of the stream
    from stream.pair import StereoPair

SlotNumbers = NDArray[np.intp]


class Slots:
    """Holds `count` pairs under their keys.

    left, right: uint8 [count, H, W, 3] BGR on the canvas; aspect: float [count], width / height before squeezing; numbers,
    subjects, epochs: int64 [count], the key, and a number of the subject (where none is named, of the device) and of the epoch;
    clips: int64 [count], the key of the first pair of the clip; priority: float64 [count], the last one measured, nan before;
    names: identities; captured: device and capture time, nanoseconds since 1970 by the clock of the device, ("", 0) before the
    first pair; signals: what was measured beside the images, of the names that are given. Raises SettingsError if they do not
    fit into RAM.
    """

    def __init__(self, count: int, canvas: tuple[int, int], signals: Sequence[str] = ()) -> None:
        self.left, self.right = _images(count, canvas), _images(count, canvas)
        self.aspect = torch.ones(count)
        self.numbers, self.subjects, self.epochs = torch.zeros(3, count, dtype=torch.int64)
        self.clips = np.zeros(count, np.int64)
        self.priority = np.full(count, np.nan)
        self.names = [""] * count
        self.signals = Measured(count, signals)
        self.captured: list[tuple[str, int]] = [("", 0)] * count
        self.clear()

    def clear(self) -> None:
        """Free all slots."""
        self._slot: dict[int, int] = {}
        self._pairs: dict[int, list[int]] = {}  # the keys of a clip, where it has more than one pair
        self._free = list(range(len(self.names)))[::-1]

    def __len__(self) -> int:
        return len(self._slot)

    @property
    def nbytes(self) -> int:
        """The bytes that images and signals take once all slots are filled."""
        return self.left.nbytes + self.right.nbytes + self.signals.nbytes

    def keys(self) -> Keys:
        """Return the keys of all pairs, rising: int64 [n]."""
        return np.array(sorted(self._slot), np.int64)

    def of(self, keys: Iterable[int]) -> SlotNumbers:
        """Return the slots of these keys: intp [n]. Raises KeyError."""
        return np.array([self._slot[int(key)] for key in keys], np.intp)

    def put(self, key: int, pair: StereoPair | None, priority: float = np.nan, clip: int | None = None) -> None:
        """Give a new key a free slot. pair: on the canvas; None leaves the slot without images. clip: by default the key;
        the pairs of a clip come in their order.
        """
        slot = self._slot[key] = self._free.pop()
        self.priority[slot] = priority
        self.clips[slot] = clip = key if clip is None else clip
        if clip != key:
            self._pairs.setdefault(clip, [clip]).append(key)
        if pair is not None:
            self.left[slot] = torch.from_numpy(pair.left)
            self.right[slot] = torch.from_numpy(pair.right)
            self.aspect[slot] = pair.header.width / pair.header.height
            self.names[slot] = pair.header.name
            device = zlib.crc32(pair.header.device.encode())
            who = pair.telemetry.subject
            self.numbers[slot], self.subjects[slot] = key, zlib.crc32(who.encode()) if who else device
            self.epochs[slot] = int(pair.header.epoch[:7], 16) << 32 | device
            self.captured[slot] = pair.header.device, pair.header.left_ns
            self.signals.put(slot, pair.telemetry.signals)

    def release(self, keys: Iterable[int]) -> None:
        """Free the slots of these keys. Raises KeyError."""
        self._free.extend(self._slot.pop(key) for key in keys)

    def keys_of(self, clip: int) -> list[int]:
        """Return the keys of the pairs of a clip."""
        return self._pairs.get(clip, [clip])

    def count(self, clips: Collection[int]) -> int:
        """Count the pairs of clips, which another thread may change meanwhile."""
        return sum(len(self.keys_of(clip)) for clip in tuple(clips)) if self._pairs else len(clips)

    def release_clips(self, clips: Iterable[int]) -> int:
        """Free the slots of these clips, and return how many pairs they had. Raises KeyError."""
        keys = [key for clip in clips for key in self._pairs.pop(clip, [clip])]
        self.release(keys)
        return len(keys)

    def cut(self, clip: int, lost: Container[int]) -> list[int]:
        """Free the slots of the lost pairs of a clip, and return the clips that the pairs between them are then."""
        found = []
        for is_lost, piece in groupby(self._pairs.pop(clip, [clip]), lost.__contains__):
            keys = list(piece)
            if is_lost:
                self.release(keys)
            else:
                found.append(keys[0])
                self.clips[self.of(keys)] = keys[0]
                self._pairs |= {keys[0]: keys} if len(keys) > 1 else {}
        return found

    def batch(self, slots: SlotNumbers, device: torch.device, clips: Keys | None = None) -> Batch:
        """Copy the images of these slots, and what is known of them, to the compute device.

        clips: int64 [n], see `Batch`; by default each pair is a clip of its own.
        """
        index = torch.from_numpy(slots)
        own = np.arange(len(slots)) if clips is None else clips

        def gathered(items: Tensor) -> Tensor:
            # As rows of bytes they are copied twenty times faster than as images of three dimensions.
            rows = items.view(len(items), -1)
            # Pinned, so that the CPU goes on while they are copied to a GPU.
            found = torch.empty(len(index), rows.shape[1], dtype=rows.dtype, pin_memory=device.type == "cuda")
            torch.index_select(rows, 0, index, out=found)
            return found.to(device, non_blocking=True).view(len(index), *items.shape[1:])

        return Batch(
            gathered(self.left),
            gathered(self.right),
            gathered(self.aspect),
            keys=gathered(self.numbers),
            subjects=gathered(self.subjects),
            clips=torch.from_numpy(own).to(device),
            epochs=gathered(self.epochs),
            times_s=torch.from_numpy(self._times_s(slots)).to(device),
            signals={name: values.to(device) for name, values in self.signals.of(index).items()},
        )

    def _times_s(self, slots: SlotNumbers) -> NDArray[np.float64]:
        """Return the seconds from the earliest pair of its epoch among these slots to each of them: [n]."""
        captured_ns = np.array([self.captured[slot][1] for slot in slots], np.int64)
        _, which = np.unique(self.epochs.numpy()[slots], return_inverse=True)
        first_ns = np.full(len(slots), np.iinfo(np.int64).max)
        np.minimum.at(first_ns, which, captured_ns)
        seconds: NDArray[np.float64] = (captured_ns - first_ns[which]) / 1e9
        return seconds


def _images(count: int, canvas: tuple[int, int]) -> Tensor:
    """Return room for uint8 [count, H, W, 3]; the operating system provides it page by page as it is filled."""
    try:
        return torch.empty((count, *canvas, 3), dtype=torch.uint8)
    except RuntimeError as error:
        raise SettingsError(
            f"memory: {count} pairs of {canvas[0]}x{canvas[1]} pixels do not fit here: lower memory.capacity or memory.canvas"
        ) from error
