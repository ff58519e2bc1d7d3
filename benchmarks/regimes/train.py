"""The regimes that are compared: the original experiment's nightly training, ours, and shuffled training on the same pairs.

All of them take steps of the same kind: the same objective, views, backbone and batch, on the same pairs. They differ in the
time at which a pair is trained on, in the other pairs of its batch, and in how learning rate and weight decay change (original
experiment, 3.1).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from benchmarks.regimes.days import HOURS_OUT, RecordedDays
from benchmarks.shared.paired import Floats, Keys
from benchmarks.shared.probing import StepLog
from benchmarks.shared.recipes import unchanged, with_original_numbers
from learner.config import LearnerConfig
from learner.loop import Learner, StepReport, learn
from learner.memory.memory import Draw, Memory
from stream.pair import EncodedPair
from stream.source import IteratorSource

HOURS_OFFLINE = 1.0
"""Hours for which the original rig had to be offline before the night began."""
FIRST_DECAY, LAST_DECAY = 0.001, 0.2
"""The weight decay of the original experiment: it follows a cosine over a night, between these values."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """The schedule of the original experiment, which also decides how many samples a pair pays for in every regime."""

    trigger_pairs: int
    """Number of new pairs since the last night after which a night begins."""
    epochs: int
    recalled: float = 0.15
    """Number of remembered pairs in a night, as a share of the new pairs."""

    @property
    def samples_a_pair(self) -> float:
        """Training samples for each received pair."""
        return self.epochs * (1 + self.recalled)


ORIGINAL_NIGHT = Night(trigger_pairs=1500, epochs=50)


@dataclass
class TrainedDay(StepLog):
    """A learner after a day (and the night after it). waits_h: hours from each pair's capture to its first training step."""

    learner: Learner
    waits_h: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return the figures of the day, without the probes."""
        waits = np.array(self.waits_h)
        of_waits = {"mean": waits.mean(), "median": np.median(waits), "most": waits.max()} if len(waits) else {}
        return {
            "steps": self.learner.steps,
            "samples": self.learner.samples,
            "pairs": self.learner.received,
            "rollbacks": self.rollbacks,
            "waits_h": {name: float(value) for name, value in of_waits.items()} or None,
            "gauges": self.means(),
        }


Regime = Callable[[LearnerConfig, RecordedDays, Night, torch.device], Iterator[TrainedDay]]
"""Trains from a random start on recorded days, and yields after each day."""


class EpochMemory(Memory):
    """Keeps every pair. Batches are consecutive parts of shuffled epochs over the chosen pairs."""

    def choose(self, keys: Keys, batch_size: int, random: np.random.Generator) -> int:
        """Draw only these pairs from now on; return the number of whole batches in an epoch, which must be at least 1."""
        self._chosen, self._random, self._left = keys, random, np.empty(0, np.int64)
        return len(keys) // batch_size

    def draw(self, count: int) -> Draw:
        """Draw the next pairs of the epoch. The remainder at its end, which is smaller than a batch, is left out."""
        if len(self._left) < count:
            self._left = self._random.permutation(self._chosen)
        keys, self._left = self._left[:count], self._left[count:]
        return Draw(keys, self.slots.of(keys), 0)

    def score(self, draw: Draw, priority: Floats) -> None:
        """Do nothing: pairs are not ranked, because no pair leaves."""


def random_start(
    config: LearnerConfig, recorded: RecordedDays, _night: Night, device: torch.device
) -> Iterator[TrainedDay]:
    """Yield the random start for every day, without training."""
    learner = Learner(config, device)
    for _ in range(recorded.route.days):
        yield TrainedDay(learner)


def continuous(share: float) -> Regime:
    """Return our training, with `share` of the samples for each pair that the nightly regime has."""

    def run(config: LearnerConfig, recorded: RecordedDays, night: Night, device: torch.device) -> Iterator[TrainedDay]:
        # Many steps may be owed, as the first batch is late.
        pacing = replace(config.pacing, replay_ratio=share * night.samples_a_pair, max_owed_steps=10**6)
        learner = Learner(replace(config, pacing=pacing), device)
        captured_h: dict[int, float] = {}
        for number, pairs in enumerate(recorded.days()):
            today, before = TrainedDay(learner), learner.received
            captured_h |= recorded.hours(number, pairs)
            arrived_h = sorted(recorded.hours(number, pairs).values())
            for event in learn(learner, IteratorSource(pairs), clock=time.monotonic):
                if isinstance(event, StepReport):
                    today.add(event)
                    now_h = arrived_h[event.received - before - 1]
                    today.waits_h += [now_h - captured_h[captured_ns] for _, captured_ns in event.fresh]
            yield today

    return run


def nightly(config: LearnerConfig, recorded: RecordedDays, night: Night, device: torch.device) -> Iterator[TrainedDay]:
    """Train as the original experiment did: not by day, but at night, and only after enough new pairs have arrived.

    A night has `epochs` epochs over the new pairs and some remembered ones. Learning rate and weight decay follow cosines, with a
    new optimiser each night. The length of a night is not part of the waits.
    """
    config = replace(config, schedule=replace(config.schedule, warmup_steps=0))
    learner, memory = _with_epochs(config, recorded, device)
    random, trained = np.random.default_rng([config.seed, 21]), 0
    captured_h: list[float] = []
    for number, pairs in enumerate(recorded.days()):
        today, now_h = TrainedDay(learner), 24 * number + HOURS_OUT + HOURS_OFFLINE
        _add_all(learner, pairs)
        captured_h += recorded.hours(number, pairs).values()
        new = np.arange(trained, memory.arrived)
        if len(new) >= night.trigger_pairs:
            recalled = min(trained, round(night.recalled * len(new)))
            tonight = np.concatenate([new, random.choice(trained, recalled, replace=False)])
            steps = night.epochs * memory.choose(tonight, config.pacing.batch_size, random)
            for report in _train_a_night(learner, steps):
                today.add(report)
            today.waits_h = [now_h - captured_h[key] for key in new.tolist()]
            trained = memory.arrived
        yield today


def _train_a_night(learner: Learner, steps: int) -> Iterator[StepReport]:
    optimizer = learner.trainer.optimizer
    optimizer.state.clear()
    for step in range(steps):
        falling = (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            if group["weight_decay"]:  # biases and norms of some objectives have none
                group["weight_decay"] = LAST_DECAY - (LAST_DECAY - FIRST_DECAY) * falling
        yield learner.step(falling)


def shuffled(config: LearnerConfig, recorded: RecordedDays, night: Night, device: torch.device) -> Iterator[TrainedDay]:
    """Train on all pairs of all days from the first step on, in shuffled epochs, with as many steps a day as `continuous(1)`."""
    learner, memory = _with_epochs(config, recorded, device)
    for pairs in recorded.days():
        _add_all(learner, pairs)
    chance = np.random.default_rng([config.seed, 22])
    memory.choose(np.arange(memory.arrived), config.pacing.batch_size, chance)
    for number in range(1, recorded.route.days + 1):
        today = TrainedDay(learner)
        owed = number * recorded.route.pairs_a_day * night.samples_a_pair
        while learner.samples + config.pacing.batch_size <= owed:
            today.add(learner.step())
        yield today


def _with_epochs(config: LearnerConfig, recorded: RecordedDays, device: torch.device) -> tuple[Learner, EpochMemory]:
    """Return a learner whose memory holds all recorded pairs."""
    count = recorded.route.days * recorded.route.pairs_a_day
    memory = EpochMemory(replace(config.memory, capacity=1, fresh_capacity=count), seed=config.seed)
    return Learner(config, device, memory=memory), memory


def _add_all(learner: Learner, pairs: Sequence[EncodedPair]) -> None:
    for pair in pairs:
        learner.add(pair)


REGIMES: Mapping[str, tuple[Callable[[LearnerConfig], LearnerConfig], Regime]] = {
    "random": (unchanged, random_start),
    "nightly": (unchanged, nightly),
    "nightly, original numbers": (with_original_numbers, nightly),
    "continuous": (unchanged, continuous(1.0)),
    "continuous, half": (unchanged, continuous(0.5)),
    "iid": (unchanged, shuffled),
}
"""The regimes by name: a change of the preset, and a function that trains."""
