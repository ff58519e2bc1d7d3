"""One learner on a stream with junk: its scores of held-out junk at some steps, and what its memory does with junk."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator

from benchmarks.junk.auc import Auc, auc
from benchmarks.junk.streams import HeldOut, LabelledPair
from benchmarks.shared.paired import Floats
from benchmarks.shared.probing import train_to
from benchmarks.shared.spoiled import MISHAPS
from buffer.priority import PriorityScale, Stubbornness
from learner.config import LearnerConfig
from learner.loop import Learner
from learner.memory.memory import Memory
from learner.memory.ranking import Ranking, reservoir_for
from learner.objectives.contract import Objective

Table = dict[str, dict[str, Auc]]
"""AUC of "junk scores above real pairs", by mishap and score."""

SETTLED_STEPS = 50
"""Number of first steps that the figures of memory leave out: learning rate and running mean of losses are not settled yet."""
REPLAYED = 4
"""Number of scorings after which Stubbornness can have damped a pair."""


class RecordingStubbornness(Stubbornness):
    """Stubbornness that records its arguments and results."""

    def __init__(self, scale: PriorityScale) -> None:
        super().__init__()
        self._scale = scale
        self._notes: list[Floats] = []
        self._scorings: dict[int, int] = {}

    def damped(self, keys: ArrayLike, priorities: ArrayLike, phi: ArrayLike) -> Floats:
        """See Stubbornness. Each call is one training step."""
        damped = super().damped(keys, priorities, phi)
        standardised = (np.asarray(priorities) - self._scale.mean) / max(self._scale.deviation, 1e-12)
        key = np.asarray(keys)
        nth = np.array([self._count(k) for k in key.tolist()])
        step = np.full(len(key), len(self._notes))
        self._notes.append(np.stack([step, key, nth, standardised, np.asarray(phi), damped], 1))
        return damped

    def _count(self, key: int) -> int:
        self._scorings[key] = self._scorings.get(key, 0) + 1
        return self._scorings[key]

    def scorings(self) -> Scorings:
        """Return all scorings, in their order."""
        step, key, nth, standardised, phi, damped = np.concatenate(self._notes).T
        return Scorings(step.astype(int), key.astype(int), nth.astype(int), standardised, phi, damped)


class Scorings(NamedTuple):
    """All scorings of pairs, one row for each.

    step: from 0. key: of the pair. nth: how often the pair has been scored, from 1. standardised: the standardised loss; phi: the
    same, clipped; damped: phi after Stubbornness.
    """

    step: NDArray[np.int_]
    key: NDArray[np.int_]
    nth: NDArray[np.int_]
    standardised: Floats
    phi: Floats
    damped: Floats

    def where(self, chosen: NDArray[np.bool_]) -> Scorings:
        """Return the chosen rows. chosen: bool, one for each row."""
        return Scorings._make(column[chosen] for column in self)


@dataclass
class JunkFigures:
    """The figures of one learner. held_out: by the number of steps; memory: by mishap, see `memory_row`."""

    held_out: dict[int, Table] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    cpu_s: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        held_out = {
            str(moment): {mishap: {score: one._asdict() for score, one in row.items()} for mishap, row in table.items()}
            for moment, table in self.held_out.items()
        }
        return {"held_out": held_out, "memory": self.memory, "cpu_s": self.cpu_s}


def train_and_score(
    config: LearnerConfig, stream: Sequence[LabelledPair], held_out: HeldOut, moments: Sequence[int]
) -> JunkFigures:
    """Train from a random start to the last moment, and score the held-out pairs at each moment.

    The stream must last that long.
    """
    started_s, figures = time.process_time(), JunkFigures()
    ranking = Ranking(reservoir_for(config.memory, seed=config.seed))
    recorded = ranking.stubborn = RecordingStubbornness(ranking.scale)
    learner = Learner(config, torch.device("cpu"), memory=Memory(config.memory, seed=config.seed, ranking=ranking))
    for _ in train_to(learner, (labelled.pair for labelled in stream), moments):
        chance = torch.Generator().manual_seed(config.seed)
        figures.held_out[learner.steps] = score_held_out(learner.objective, held_out, chance)
    figures.memory = memory_figures(recorded.scorings(), ranking.reservoir.keys(), stream)
    figures.cpu_s = round(time.process_time() - started_s, 1)
    return figures


@torch.no_grad()
def score_held_out(objective: Objective, held_out: HeldOut, generator: Generator) -> Table:
    """Return the AUC of each mishap, by score.

    Scores are the priority (`kl`) and the loss that the optimiser lowers (`ce`, without a repulsion).
    """
    outcomes = [objective(batch, generator) for batch in held_out.batches]
    scores = {
        "kl": torch.cat([outcome.ranked_by for outcome in outcomes]).double().numpy(),
        "ce": torch.cat([outcome.losses for outcome in outcomes]).double().numpy(),
    }
    real = held_out.mishaps == ""
    return {
        mishap: {name: auc(score[held_out.mishaps == mishap], score[real]) for name, score in scores.items()}
        for mishap in MISHAPS
    }


def memory_figures(
    scorings: Scorings, kept: NDArray[np.int64], stream: Sequence[LabelledPair]
) -> dict[str, dict[str, float]]:
    """Return the figures of the pairs of each mishap, after the learner has settled; "any" is all junk together."""
    seen = int(scorings.key.max()) + 1
    fate = np.array([labelled.mishap or "" for labelled in stream[:seen]])
    settled = scorings.where(scorings.step >= SETTLED_STEPS)
    kinds: dict[str, NDArray[np.bool_]] = {mishap: fate == mishap for mishap in MISHAPS}
    return {name: memory_row(settled, kept, junk, fate == "") for name, junk in (kinds | {"any": fate != ""}).items()}


def memory_row(
    scorings: Scorings, kept: NDArray[np.int64], junk: NDArray[np.bool_], real: NDArray[np.bool_]
) -> dict[str, float]:
    """Return the figures of the pairs `junk` compared with the pairs `real`, both bool over the keys.

    first, later, damped: AUC of junk above real, by the standardised loss of the first scoring, by that from the 4th scoring on
    (a mean for each pair), and by the phi of the latter after Stubbornness. clipped: share of junk's first scorings at the upper
    clip. weight_*: ratio of the mean weights exp(.) of junk and real pairs; of first scorings without and with the clip, of later
    scorings with the clip, and damped. taken, taken_real: share of later phi above 0 that Stubbornness removed. replayed, kept:
    share of junk in the replays, and in the reservoir at the end, divided by its share of the arrivals.
    """
    is_junk, is_real = junk[scorings.key], real[scorings.key]
    first, later = scorings.nth == 1, scorings.nth >= REPLAYED
    junk_first, real_first = (scorings.where(first & one) for one in (is_junk, is_real))
    junk_later, real_later = (scorings.where(later & one) for one in (is_junk, is_real))
    replays = scorings.nth > 1
    return {
        "pairs": float(junk.sum()),
        "first": auc(junk_first.standardised, real_first.standardised).value,
        "later": auc(_by_pair(junk_later, "standardised"), _by_pair(real_later, "standardised")).value,
        "damped": auc(_by_pair(junk_later, "damped"), _by_pair(real_later, "damped")).value,
        "clipped": _mean(junk_first.phi == 2),
        "weight_unclipped": _ratio(np.exp(junk_first.standardised), np.exp(real_first.standardised)),
        "weight_clipped": _ratio(np.exp(junk_first.phi), np.exp(real_first.phi)),
        "weight_later": _ratio(np.exp(junk_later.phi), np.exp(real_later.phi)),
        "weight_damped": _ratio(np.exp(junk_later.damped), np.exp(real_later.damped)),
        "taken": _taken(junk_later),
        "taken_real": _taken(real_later),
        "replayed": _ratio(is_junk[replays], junk),
        "kept": _ratio(junk[kept], junk),
    }


def _by_pair(scorings: Scorings, name: str) -> Floats:
    """Return the mean over the scorings of each pair, because the scorings of one pair are not independent."""
    _, which = np.unique(scorings.key, return_inverse=True)
    return np.asarray(np.bincount(which, getattr(scorings, name)) / np.bincount(which))


def _taken(scorings: Scorings) -> float:
    above = scorings.phi > 0
    return 1 - float(scorings.damped[above].sum() / scorings.phi[above].sum()) if above.any() else math.nan


def _ratio(values: NDArray[Any], others: NDArray[Any]) -> float:
    """Return the ratio of the means; nan if it is not defined."""
    mean = _mean(others)
    return _mean(values) / mean if mean else math.nan


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else math.nan
