"""One learner on a stream with junk: how it scores held-out junk at some moments, and what its memory makes of the stream's."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator

from benchmarks.junk.auc import Auc, auc
from benchmarks.junk.streams import Exam, Shown
from benchmarks.shared.spoiled import MISHAPS
from buffer.priority import PriorityScale, Stubbornness
from learner.config import LearnerConfig
from learner.loop import Learner, learn
from learner.memory.memory import Memory
from learner.memory.ranking import Ranking, reservoir_for
from learner.objectives.contract import Objective
from stream.source import IteratorSource

Floats = NDArray[np.float64]
Table = dict[str, dict[str, Auc]]
"""AUC of "junk above real" by mishap and score."""

SETTLED_STEPS = 50
"""Steps that are left out of what memory did: the learning rate still warms up, the running mean of losses begins."""
REPLAYED = 4
"""The scoring of a pair from which on a stubborn one can have been damped."""


class Watched(Stubbornness):
    """Stubbornness that notes what it was told and what it answered."""

    def __init__(self, scale: PriorityScale) -> None:
        super().__init__()
        self._scale = scale
        self._notes: list[Floats] = []
        self._scorings: dict[int, int] = {}

    def damped(self, keys: ArrayLike, priorities: ArrayLike, phi: ArrayLike) -> Floats:
        """See Stubbornness. Each call is one training step."""
        answer = super().damped(keys, priorities, phi)
        standardised = (np.asarray(priorities) - self._scale.mean) / max(self._scale.deviation, 1e-12)
        key = np.asarray(keys)
        nth = np.array([self._count(k) for k in key.tolist()])
        step = np.full(len(key), len(self._notes))
        self._notes.append(np.stack([step, key, nth, standardised, np.asarray(phi), answer], 1))
        return answer

    def _count(self, key: int) -> int:
        self._scorings[key] = self._scorings.get(key, 0) + 1
        return self._scorings[key]

    def scorings(self) -> Scorings:
        """All of them, in their order."""
        step, key, nth, standardised, phi, damped = np.concatenate(self._notes).T
        return Scorings(step.astype(int), key.astype(int), nth.astype(int), standardised, phi, damped)


@dataclass(frozen=True)
class Scorings:
    """One row a scoring.

    step: from 0. key: of the pair. nth: how often it was scored by now, from 1. standardised: the loss; phi: the same, clipped;
    damped: what Stubbornness left of phi.
    """

    step: NDArray[np.int_]
    key: NDArray[np.int_]
    nth: NDArray[np.int_]
    standardised: Floats
    phi: Floats
    damped: Floats

    def where(self, chosen: NDArray[np.bool_]) -> Scorings:
        """Those rows."""
        return Scorings(*(getattr(self, spec.name)[chosen] for spec in dataclasses.fields(self)))


@dataclass
class Finding:
    """What one learner showed. held_out: by moment in steps; memory: by mishap, see `memory_row`."""

    held_out: dict[int, Table] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    cpu_s: float = 0.0


def run(config: LearnerConfig, stream: Sequence[Shown], exam: Exam, moments: Sequence[int]) -> Finding:
    """Train from a random start to the last moment and look at each; the stream must last as long."""
    started_s, finding = time.process_time(), Finding()
    ranking = Ranking(reservoir_for(config.memory, seed=config.seed))
    watched = ranking.stubborn = Watched(ranking.scale)
    learner = Learner(config, torch.device("cpu"), memory=Memory(config.memory, seed=config.seed, ranking=ranking))
    events = learn(learner, IteratorSource(shown.pair for shown in stream), clock=time.monotonic)
    for moment in moments:
        while learner.steps < moment:
            next(events)
        finding.held_out[moment] = held_out(learner.objective, exam, torch.Generator().manual_seed(config.seed))
    finding.memory = memory_table(watched.scorings(), ranking.reservoir.keys(), stream)
    finding.cpu_s = round(time.process_time() - started_s, 1)
    return finding


@torch.no_grad()
def held_out(objective: Objective, exam: Exam, generator: Generator) -> Table:
    """AUC of each mishap by score: the priority (`kl`), and what the optimiser lowers (`ce`, without a repulsion in it)."""
    outcomes = [objective(batch, generator) for batch in exam.batches]
    scores = {
        "kl": torch.cat([outcome.priority for outcome in outcomes]).double().numpy(),
        "ce": torch.cat([outcome.losses for outcome in outcomes]).double().numpy(),
    }
    real = exam.mishaps == ""
    return {
        mishap: {name: auc(score[exam.mishaps == mishap], score[real]) for name, score in scores.items()}
        for mishap in MISHAPS
    }


def memory_table(scorings: Scorings, kept: NDArray[np.int64], stream: Sequence[Shown]) -> dict[str, dict[str, float]]:
    """What became of each mishap's pairs, once the learner had settled; "any" is all junk together."""
    seen = int(scorings.key.max()) + 1
    fate = np.array([shown.mishap or "" for shown in stream[:seen]])
    settled = scorings.where(scorings.step >= SETTLED_STEPS)
    kinds: dict[str, NDArray[np.bool_]] = {mishap: fate == mishap for mishap in MISHAPS}
    return {name: memory_row(settled, kept, junk, fate == "") for name, junk in (kinds | {"any": fate != ""}).items()}


def memory_row(
    scorings: Scorings, kept: NDArray[np.int64], junk: NDArray[np.bool_], real: NDArray[np.bool_]
) -> dict[str, float]:
    """Of the pairs `junk` against `real`, both bool over the keys.

    first, later, damped: AUC of junk above real; by the standardised loss of the first scoring, by that from the 4th scoring
    on (a mean for each pair), and by what Stubbornness left of the latter's phi. clipped: share of junk's first scorings at the
    upper clip. weight_*: mean weight exp(.) of junk by that of real; of first scorings without and with the clip, of later ones
    with the clip and damped too. taken, taken_real: share of later phi above 0 that Stubbornness took. replayed, kept: share
    of the replays, and of the reservoir at the end, by the share of arrivals.
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
    """The mean over the scorings of each pair: one pair's scorings are no independent witnesses."""
    _, which = np.unique(scorings.key, return_inverse=True)
    return np.asarray(np.bincount(which, getattr(scorings, name)) / np.bincount(which))


def _taken(scorings: Scorings) -> float:
    above = scorings.phi > 0
    return 1 - float(scorings.damped[above].sum() / scorings.phi[above].sum()) if above.any() else math.nan


def _ratio(values: NDArray[Any], others: NDArray[Any]) -> float:
    """Of the means; nan where there is nothing to compare with."""
    mean = _mean(others)
    return _mean(values) / mean if mean else math.nan


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else math.nan


def plain(finding: Finding) -> Mapping[str, Any]:
    """As JSON has it."""
    held_out_rows = {
        str(moment): {mishap: {score: one._asdict() for score, one in row.items()} for mishap, row in table.items()}
        for moment, table in finding.held_out.items()
    }
    return {"held_out": held_out_rows, "memory": finding.memory, "cpu_s": finding.cpu_s}
