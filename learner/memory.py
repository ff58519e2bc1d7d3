"""What the learner remembers, in two tiers: every pair is trained on once, then the reservoir decides how long it stays.

A pair that arrives waits in a short first-in-first-out queue. The next batch takes all that waits (and fills up from the
reservoir), so that a pair's first training step is also its first scoring: it is offered to the reservoir with the KL measured
there, and nothing is ever scored for its own sake. Images lie decoded on one canvas size, so that a batch is one gather.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from buffer.priority import LOSS_LIMIT, LossScale, Stubbornness
from buffer.reservoir import Reservoir
from buffer.validation import PHI_LIMIT
from learner.distributed import collectives
from learner.errors import SettingsError
from learner.objectives.contract import Batch
from stream.codec import decode
from stream.errors import MalformedMessage
from stream.pair import MAX_SIDE, EncodedPair, Image, StereoPair

_REFILLED_AT_ONCE = 64
"""Pairs whose bytes are held while they are decoded."""

Keys = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """How much is remembered, and what is kept when it is full (design of the reservoir: `buffer.reservoir`)."""

    capacity: int = 4096
    """Pairs in the reservoir."""
    fresh_capacity: int = 512
    """Pairs that may wait for their first training step; beyond it the oldest is dropped untrained and counted."""
    canvas: tuple[int, int] = (288, 384)
    """Height and width in pixels that images are squeezed onto; windows stay square on the scene all the same."""
    loss_weight: float = 1.0
    """How much a high loss helps a pair to stay: 0 ignores it, below 0 prefers what is easy."""
    half_life: float = math.inf
    """Arrivals after which a pair's chance to stay halves; inf remembers all times alike."""
    noise: float = 1.0
    """1 keeps a random sample, 0 keeps strictly the best scores."""
    uniform_floor: float = 0.25
    """Share of each draw that ignores the loss."""
    stalest_share: float = 0.05
    """Share of each batch, to the nearest pair, taken by those whose loss was measured longest ago. Of n pairs in memory none
    has a score older than n / (share * batch) steps that left so much room beside the fresh pairs."""


@dataclass(frozen=True, slots=True)
class Draw:
    """The pairs of one step: the first `fresh` were never trained on; a remembered one may be drawn twice."""

    keys: Keys
    slots: NDArray[np.intp]
    fresh: int


class Memory:
    """Slots for images, the queue of fresh pairs and the reservoir; keys are arrival numbers.

    It may be number `shard` of `shards` over parts of one stream, each with its share of the capacities, which are multiples
    of `shards`.
    """

    def __init__(self, config: MemoryConfig, *, seed: int, shard: int = 0, shards: int = 1) -> None:
        _check(config, shards)
        self.config = config
        self._fresh_capacity = config.fresh_capacity // shards
        slots = config.capacity // shards + self._fresh_capacity
        self.left, self.right = _images(slots, config.canvas), _images(slots, config.canvas)
        self.reservoir = Reservoir(
            config.capacity // shards,
            loss_weight=config.loss_weight,
            half_life=config.half_life,
            noise=config.noise,
            uniform_floor=config.uniform_floor,
            seed=seed,
            shard=shard,
            shards=shards,
        )
        self.scale = LossScale()
        self.stubborn = Stubbornness()
        self.aspect = torch.ones(slots)
        self.names: list[str] = [""] * slots
        self.captured: list[tuple[str, int]] = [("", 0)] * slots  # device, and nanoseconds since 1970 by its clock
        self.kl = np.full(slots, np.nan)
        self._slot: dict[int, int] = {}
        self._free = list(range(slots))[::-1]
        self._fresh: deque[int] = deque()
        self._shunned: set[int] = set()  # kept pairs in quarantine: the reservoir has no deletion, so they wait there
        self.arrived = 0
        self.untrained = 0
        self.quarantined = 0

    def __len__(self) -> int:
        """Pairs that can be drawn: waiting or kept, and not in quarantine."""
        return len(self._slot) - len(self._shunned)

    @property
    def fresh(self) -> int:
        """Pairs that wait for their first training step."""
        return len(self._fresh)

    @property
    def room(self) -> int:
        """Pairs that can be added before one has to go untrained."""
        return self._fresh_capacity - len(self._fresh)

    def fitted(self, pair: StereoPair) -> StereoPair:
        """The pair with its images on the canvas. Changes nothing here: may run beside anything else."""
        left, right = (on_canvas(eye, self.config.canvas) for eye in (pair.left, pair.right))
        return StereoPair(pair.header, left, right)

    def add(self, pair: StereoPair, key: int | None = None) -> int:
        """Let a decoded pair wait for its first training step; returns its key, the next one where none is given."""
        if len(self._fresh) == self._fresh_capacity:
            self._release([self._fresh.popleft()])
            self.untrained += 1
        key, slot = self.arrived if key is None else key, self._free.pop()
        self._place(slot, pair)
        self.kl[slot] = np.nan
        self._slot[key] = slot
        self._fresh.append(key)
        self.arrived = key + 1
        return key

    def pass_over(self) -> None:
        """The next key is that of a pair in another shard."""
        self.arrived += 1

    def draw(self, count: int) -> Draw:
        """`count` pairs to train on: all that are fresh, the longest unscored, the rest by the reservoir's chances."""
        fresh = [self._fresh.popleft() for _ in range(min(count, len(self._fresh)))]
        stalest = min(round(self.config.stalest_share * count), count - len(fresh))
        keys = np.concatenate([np.asarray(fresh, np.int64), self._remembered(count - len(fresh), stalest)])
        return Draw(keys, np.array([self._slot[int(key)] for key in keys], np.intp), len(fresh))

    def _remembered(self, count: int, stalest: int) -> Keys:
        """`count` kept pairs, `stalest` of them the longest unscored; none in quarantine, others stand in for those."""
        shunned = np.fromiter(self._shunned, np.int64, len(self._shunned))
        oldest = self.reservoir.stalest(count + len(shunned))
        oldest = oldest[~np.isin(oldest, shunned)]
        if not len(oldest):
            return np.empty(0, np.int64)
        keys = oldest[:stalest]
        if count > len(keys):
            sampled = self.reservoir.sample(count - len(keys)).keys
            refused = np.isin(sampled, shunned)
            sampled[refused] = np.resize(oldest, np.count_nonzero(refused))
            keys = np.concatenate([keys, sampled])
        return keys

    def batch(self, draw: Draw, device: torch.device) -> Batch:
        """The images of a draw on the compute device."""
        index = torch.from_numpy(draw.slots)

        def gathered(items: Tensor) -> Tensor:
            rows = items.view(
                len(items), -1
            )  # a row of bytes is copied twenty times faster than an image of three dimensions
            # In memory that a GPU can read: only from there it is copied while the CPU goes on.
            taken = torch.empty(len(index), rows.shape[1], dtype=rows.dtype, pin_memory=device.type == "cuda")
            torch.index_select(rows, 0, index, out=taken)
            return taken.to(device, non_blocking=True).view(len(index), *items.shape[1:])

        return Batch(gathered(self.left), gathered(self.right), gathered(self.aspect))

    def names_of(self, draw: Draw) -> list[str]:
        """The identities of a draw, as a person reads them."""
        return [self.names[slot] for slot in draw.slots]

    def debuts_of(self, draw: Draw) -> list[tuple[str, int]]:
        """Device and capture time, nanoseconds since 1970 by its clock, of a draw's pairs that were never trained on."""
        return [self.captured[slot] for slot in draw.slots[: draw.fresh]]

    def newest_ns(self) -> int | None:
        """The latest capture time among the pairs it had room for, by its device's clock; None before the first one."""
        return max((time_ns for device, time_ns in self.captured if device), default=None)

    def stalest_steps(self) -> int:
        """Steps since the score that is the oldest in memory was measured; 0 while there is none."""
        oldest = self.reservoir.stalest(1)
        return int(self.reservoir.ages(oldest).max(initial=0))

    def learned(self, draw: Draw, kl: NDArray[np.float64]) -> None:
        """The draw was trained on with these KL [len(draw)]: score it, and let the reservoir decide on the fresh ones.

        All shards do this in step: their losses are standardised against the distribution of all. Raises ValueError, with
        nothing changed, where a KL is no finite number of at least 0.
        """
        if kl.shape != draw.keys.shape or not np.all((kl >= 0) & (kl <= LOSS_LIMIT)):
            raise ValueError(f"{len(draw.keys)} pairs need as many finite KL of at least 0, got {kl[:8].tolist()}")
        keys, first, which = np.unique(draw.keys, return_index=True, return_inverse=True)
        mean_kl = np.bincount(which, kl) / np.bincount(which)  # a pair drawn twice has one score, the mean
        self.kl[draw.slots[first]] = mean_kl
        self.scale.observe(collectives.pooled(mean_kl))
        phi = self.stubborn.damped(keys, mean_kl, self.scale.phi(mean_kl))
        fresh = first < draw.fresh
        self._rescore(keys[~fresh], phi[~fresh])
        offer = self.reservoir.offer(keys[fresh], phi[fresh])
        gone = np.concatenate([keys[fresh][~offer.kept], offer.evicted])
        self.stubborn.forget(gone)
        self._release(gone.tolist())

    def _rescore(self, keys: Keys, phi: NDArray[np.float64]) -> None:
        """A kept pair's phi is the mean of what was measured now and what its last phi is still worth: crops are noisy."""
        before = self.scale.aged(self.reservoir.phi(keys), self.reservoir.ages(keys))
        self.reservoir.update(keys, (phi + before) / 2)

    def quarantine(self, draw: Draw, bad: NDArray[np.bool_]) -> None:
        """The step was refused: never draw the pairs at fault again, put the other fresh ones back where they were."""
        fresh, fresh_bad = draw.keys[: draw.fresh], bad[: draw.fresh]
        self._release(fresh[fresh_bad].tolist())
        self._fresh.extendleft(reversed(fresh[~fresh_bad].tolist()))
        self._shun(np.unique(draw.keys[draw.fresh :][bad[draw.fresh :]]))
        self.quarantined += int(fresh_bad.sum())

    def _shun(self, kept: Keys) -> None:
        """Never draw these kept pairs again, and let them go as soon as others come."""
        self.reservoir.update(kept, np.full(len(kept), -PHI_LIMIT))
        self._shunned.update(kept.tolist())
        self.quarantined += len(kept)

    def extremes(self, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Slots of the `count` kept pairs with the highest and with the lowest last KL, most extreme first."""
        slots = np.array([self._slot[key] for key in self.reservoir.keys().tolist()], np.intp)
        ranked = slots[np.argsort(self.kl[slots])] if len(slots) else slots
        return ranked[::-1][:count], ranked[:count]

    def ends(self, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Slots of the `count` kept pairs that came last, newest first, and of those that came first, oldest first."""
        keys = np.sort(self.reservoir.keys())
        newest, oldest = (
            np.array([self._slot[key] for key in some.tolist()], np.intp) for some in (keys[::-1][:count], keys[:count])
        )
        return newest, oldest

    def over_time(self, count: int) -> NDArray[np.intp]:
        """Slots of at most `count` pairs, spread evenly over the arrivals that are still here, newest first."""
        keys = sorted(self._slot, reverse=True)
        chosen = [keys[index * len(keys) // count] for index in range(count)] if len(keys) > count else keys
        return np.array([self._slot[key] for key in chosen], np.intp)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the pairs themselves: whoever keeps their bytes gives them back when it is loaded."""
        keys = np.array(sorted(self._slot), np.int64)
        return {
            "keys": keys,
            "kl": self.kl[[self._slot[key] for key in keys.tolist()]],
            "fresh": np.array(self._fresh, np.int64),
            "shunned": np.array(sorted(self._shunned), np.int64),
            "counts": {"arrived": self.arrived, "untrained": self.untrained, "quarantined": self.quarantined},
            "reservoir": self.reservoir.state_dict(),
            "scale": self.scale.state_dict(),
            "stubborn": self.stubborn.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], pairs: Iterable[EncodedPair | None]) -> None:
        """Continue from `state_dict()` of a memory with the same settings.

        pairs: those of the state's keys, in their order. The same bytes give the same pixels; None stands for a pair whose
        bytes are damaged: it is put in quarantine, as is one that does not decode any more.
        """
        self.reservoir.load_state_dict(state["reservoir"])
        self.scale.load_state_dict(state["scale"])
        self.stubborn.load_state_dict(state["stubborn"])
        keys: list[int] = state["keys"].tolist()
        self._slot = {key: slot for slot, key in enumerate(keys)}
        self._free = list(range(len(keys), len(self.names)))[::-1]
        self.kl[: len(keys)] = state["kl"]
        self._fresh = deque(state["fresh"].tolist())
        self._shunned = set(state["shunned"].tolist())
        for name, count in state["counts"].items():
            setattr(self, name, count)
        readable = list(self._refill(pairs))
        self._give_up([key for key, is_readable in zip(keys, readable, strict=True) if not is_readable])

    def _refill(self, pairs: Iterable[EncodedPair | None]) -> Iterator[bool]:
        """Decode pairs into the first slots, on all cores; whether each could be."""

        def refilled(slot: int, pair: EncodedPair | None) -> bool:
            try:
                if pair is not None:
                    self._place(slot, decode(pair))
            except MalformedMessage:
                return False
            return pair is not None

        waiting = enumerate(pairs)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            while some := list(islice(waiting, _REFILLED_AT_ONCE)):
                yield from pool.map(refilled, *zip(*some, strict=True))

    def _give_up(self, keys: list[int]) -> None:
        """The images of these pairs could not be read back."""
        fresh = [key for key in keys if key in self._fresh]
        for key in fresh:
            self._fresh.remove(key)
        self._release(fresh)
        self.quarantined += len(fresh)
        kept = sorted(set(keys) - set(fresh) - self._shunned)
        if kept:
            self._shun(np.array(kept, np.int64))

    def _place(self, slot: int, pair: StereoPair) -> None:
        self.left[slot] = torch.from_numpy(on_canvas(pair.left, self.config.canvas))
        self.right[slot] = torch.from_numpy(on_canvas(pair.right, self.config.canvas))
        self.aspect[slot] = pair.header.width / pair.header.height
        self.names[slot] = pair.header.name
        self.captured[slot] = pair.header.device, pair.header.left_ns

    def _release(self, keys: list[int]) -> None:
        self._free.extend(self._slot.pop(key) for key in keys)
        self._shunned.difference_update(keys)


def _check(config: MemoryConfig, shards: int) -> None:
    if config.capacity % shards or config.fresh_capacity % shards:
        raise SettingsError(
            f"memory: capacity {config.capacity} and fresh_capacity {config.fresh_capacity} must be multiples of the "
            f"{shards} processes that share them"
        )
    if not 0 <= config.stalest_share <= 1:
        raise SettingsError(f"memory: stalest_share must be in [0, 1], got {config.stalest_share}")
    if config.fresh_capacity < 1 or not all(8 <= side <= MAX_SIDE for side in config.canvas):
        raise SettingsError(
            f"memory: fresh_capacity must be at least 1 and canvas sides 8 to {MAX_SIDE} pixels, "
            f"got {config.fresh_capacity} and {config.canvas}"
        )


def _images(count: int, canvas: tuple[int, int]) -> Tensor:
    """Room for uint8 [count, H, W, 3]; the system gives it page by page as it is filled."""
    try:
        return torch.empty((count, *canvas, 3), dtype=torch.uint8)
    except RuntimeError as error:
        raise SettingsError(
            f"memory: {count} pairs of {canvas[0]}x{canvas[1]} pixels do not fit here: lower memory.capacity or memory.canvas"
        ) from error


def on_canvas(image: Image, canvas: tuple[int, int]) -> Image:
    """Squeeze an image [H, W] or [H, W, 3] onto the canvas (height, width), grey repeated: uint8 [h, w, 3]."""
    height, width = canvas
    if image.shape[:2] != canvas:
        shrinks = image.shape[0] >= height and image.shape[1] >= width
        image = np.asarray(
            cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8
        )
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
