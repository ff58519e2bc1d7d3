"""The regimes that the bench compares: the seed's nightly learner as it was, ours, and shuffled training on the same pairs.

All of them take the same steps: the same objective, views, backbone and batch, on the same pairs. What differs is when a pair is
trained on, beside which others, and how rate and weight decay go (seed 000, section 3.1).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ablation.rows import with_the_seeds_numbers
from benchmarks.regimes.days import HOURS_OUT, Diary
from learner.config import LearnerConfig
from learner.loop import Learner, StepReport, learn
from learner.memory.memory import Draw, Memory
from learner.memory.slots import Keys
from stream.pair import EncodedPair
from stream.source import IteratorSource

HOURS_OFFLINE = 1.0
"""The seed's rig has to be offline for so long before the night begins."""
FIRST_DECAY, LAST_DECAY = 0.001, 0.2
"""The seed's weight decay, along a cosine over a night."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """The seed's schedule, and through it how much compute a pair is given in every regime."""

    trigger_pairs: int
    """A night begins where so many new pairs have come since the last one."""
    epochs: int
    recalled: float = 0.15
    """Remembered pairs in a night, as a share of the new ones."""

    @property
    def samples_a_pair(self) -> float:
        """Training samples for each pair received."""
        return self.epochs * (1 + self.recalled)


@dataclass
class Day:
    """What a day (and the night after it) did: the waits are hours from capture to the first gradient."""

    learner: Learner
    waits_h: list[float] = field(default_factory=list)
    gauges: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rollbacks: int = 0

    def saw(self, report: StepReport) -> None:
        """Note a step."""
        self.rollbacks += bool(report.rolled_back)
        self.gauges["loss"].append(report.loss)
        for name, value in report.gauges.items():
            self.gauges[name].append(value)


Regime = Callable[[LearnerConfig, Diary, Night, torch.device], Iterator[Day]]
"""Trains on a diary from a random start and gives itself after each day."""


def still(config: LearnerConfig, diary: Diary, _night: Night, device: torch.device) -> Iterator[Day]:
    """The random start, every day."""
    learner = Learner(config, device)
    for _ in range(diary.itinerary.days):
        yield Day(learner)


def continuous(share: float) -> Regime:
    """Ours, with `share` of the nightly learner's samples a pair."""

    def run(config: LearnerConfig, diary: Diary, night: Night, device: torch.device) -> Iterator[Day]:
        pacing = replace(
            config.pacing, replay_ratio=share * night.samples_a_pair, max_owed_steps=10**6
        )  # the first batch comes late
        learner = Learner(replace(config, pacing=pacing), device)
        captured_h: dict[int, float] = {}
        for number, pairs in enumerate(diary.days()):
            today, before = Day(learner), learner.received
            captured_h |= diary.hours(number, pairs)
            arrived_h = sorted(diary.hours(number, pairs).values())
            for event in learn(learner, IteratorSource(pairs), clock=time.monotonic):
                if isinstance(event, StepReport):
                    today.saw(event)
                    now_h = arrived_h[event.received - before - 1]
                    today.waits_h += [now_h - captured_h[moment_ns] for _, moment_ns in event.fresh]
            yield today

    return run


def nightly(config: LearnerConfig, diary: Diary, night: Night, device: torch.device) -> Iterator[Day]:
    """The seed's: nothing by day; after the trigger `epochs` epochs over the new pairs and some recalled ones, rate and decay
    along cosines, a new optimiser each night. How long a night takes is not counted in its waits.
    """
    config = replace(config, schedule=replace(config.schedule, warmup_steps=0))
    learner, random = _with_all(config, diary, device), np.random.default_rng([config.seed, 21])
    trained = 0
    captured_h: list[float] = []
    for number, pairs in enumerate(diary.days()):
        today, now_h = Day(learner), 24 * number + HOURS_OUT + HOURS_OFFLINE
        _store(learner, pairs)
        captured_h += diary.hours(number, pairs).values()
        new = np.arange(trained, learner.memory.arrived)
        if len(new) >= night.trigger_pairs:
            recalled = min(trained, round(night.recalled * len(new)))
            tonight = np.concatenate([new, random.choice(trained, recalled, replace=False)])
            for report in _train_a_night(learner, tonight, night.epochs, random):
                today.saw(report)
            today.waits_h = [now_h - captured_h[key] for key in new.tolist()]
            trained = learner.memory.arrived
        yield today


def _train_a_night(learner: Learner, keys: Keys, epochs: int, random: np.random.Generator) -> Iterator[StepReport]:
    assert isinstance(learner.memory, Album)
    learner.trainer.optimizer.state.clear()
    batches = learner.memory.choose(keys, learner.config.pacing.batch_size, random)
    steps = epochs * batches
    for step in range(steps):
        falling = (1 + math.cos(math.pi * step / steps)) / 2
        for group in learner.trainer.optimizer.param_groups:
            group["weight_decay"] = LAST_DECAY - (LAST_DECAY - FIRST_DECAY) * falling
        yield learner.step(falling)


def shuffled(config: LearnerConfig, diary: Diary, night: Night, device: torch.device) -> Iterator[Day]:
    """All pairs of all days known from the first step on and drawn in epochs; as many steps a day as `continuous(1)`."""
    learner, random = _with_all(config, diary, device), np.random.default_rng([config.seed, 22])
    for pairs in diary.days():
        _store(learner, pairs)
    assert isinstance(learner.memory, Album)
    learner.memory.choose(np.arange(learner.memory.arrived), config.pacing.batch_size, random)
    for number in range(1, diary.itinerary.days + 1):
        today = Day(learner)
        owed = number * diary.itinerary.pairs_a_day * night.samples_a_pair
        while learner.samples + config.pacing.batch_size <= owed:
            today.saw(learner.step())
        yield today


class Album(Memory):
    """Keeps every pair; batches are cut from shuffled epochs over the pairs that were chosen."""

    def choose(self, keys: Keys, batch_size: int, random: np.random.Generator) -> int:
        """Draw from these from now on; returns the whole batches in an epoch, of which there must be one."""
        self._chosen, self._random, self._left = keys, random, np.empty(0, np.int64)
        return len(keys) // batch_size

    def draw(self, count: int) -> Draw:
        """The next of the epoch; what is left over at its end is left out."""
        if len(self._left) < count:
            self._left = self._random.permutation(self._chosen)
        keys, self._left = self._left[:count], self._left[count:]
        return Draw(keys, self.slots.of(keys), 0)

    def score(self, draw: Draw, priority: NDArray[np.float64]) -> None:
        """Nothing is ranked and nothing leaves."""


def _with_all(config: LearnerConfig, diary: Diary, device: torch.device) -> Learner:
    count = diary.itinerary.days * diary.itinerary.pairs_a_day
    memory = Album(replace(config.memory, capacity=1, fresh_capacity=count), seed=config.seed)
    return Learner(config, device, memory=memory)


def _store(learner: Learner, pairs: Sequence[EncodedPair]) -> None:
    for pair in pairs:
        learner.add(pair)


def unchanged(config: LearnerConfig) -> LearnerConfig:
    """The preset."""
    return config


REGIMES: Mapping[str, tuple[Callable[[LearnerConfig], LearnerConfig], Regime]] = {
    "random": (unchanged, still),
    "nightly": (unchanged, nightly),
    "nightly, seed's numbers": (with_the_seeds_numbers, nightly),
    "continuous": (unchanged, continuous(1.0)),
    "continuous, half": (unchanged, continuous(0.5)),
    "iid": (unchanged, shuffled),
}
"""What may be compared: a change of the preset, and a regime."""
