"""A member of the team: one process of a run, with a trainer and a shard of the memory."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.config import LearnerConfig
from learner.distributed import collectives
from learner.errors import SettingsError
from learner.memory.assembler import Clip
from learner.memory.decoding import decode_all, decode_onto
from learner.memory.memory import Memory
from learner.trainer import StepReport, Trainer
from learner.views.contract import Batch
from stream.errors import MalformedMessage
from stream.pair import EncodedPair, Header, StereoPair

__all__ = ["Clip", "Member", "PairCounts", "Part", "State"]

log = logging.getLogger(__name__)

State = Mapping[str, Any]
Part = tuple[dict[str, Any], Tensor | None]
"""The state of one member that differs from the others: its shard of the memory, and the generator of its views."""


class PairCounts(NamedTuple):
    """Pairs in the memory of one process, or of all, and pairs that it dropped."""

    drawable: int
    """Fresh or kept, and not in quarantine."""
    fresh: int
    kept: int
    dropped_fresh: int
    quarantined: int
    undecodable: int
    clips: int = 0
    """Clips that the kept pairs are in; a single pair is one too."""


class Member:
    """One process of a run. Raises SettingsError if batch or memory cannot be divided among the processes.

    memory: instead of the one that the settings describe. undecodable: pairs whose images did not decode.
    """

    def __init__(self, config: LearnerConfig, device: torch.device, memory: Memory | None = None) -> None:
        processes = collectives.count()
        if config.pacing.batch_size % processes:
            raise SettingsError(
                f"pacing.batch_size {config.pacing.batch_size} must be a multiple of the {processes} processes"
            )
        if config.pacing.batch_size // processes < config.memory.clip:
            raise SettingsError(
                f"pacing.batch_size {config.pacing.batch_size} must hold a clip of {config.memory.clip} pairs for each of the "
                f"{processes} processes: raise it, or lower --memory.clip"
            )
        config.check_fresh(processes)
        self.config = config
        self.trainer = Trainer(config, device)
        if memory is None:
            shard, pool = collectives.number(), collectives.all_values
            signals = config.objective.signals
            memory = Memory(config.memory, seed=config.seed, shard=shard, shards=processes, pool=pool, signals=signals)
        self.memory = memory
        self.undecodable = 0
        self._spoiled: list[Header] = []

    def take_spoiled(self) -> list[Header]:
        """Return the headers of the pairs that did not decode, each once."""
        spoiled, self._spoiled = self._spoiled, []
        return spoiled

    def add(self, clip: Clip) -> int:
        """Put a clip into memory, in pieces where one of its pairs cannot be used. Returns how many pairs entered."""
        entered = 0
        rows = zip(clip.keys, map(self.decoded, clip.pairs), strict=True)
        for is_piece, piece in itertools.groupby(rows, lambda row: row[1] is not None):
            if is_piece:
                keys, pairs = zip(*piece, strict=True)
                self.memory.add_clip(keys, pairs)
                entered += len(keys)
        return entered

    def decoded(self, pair: EncodedPair | StereoPair | None) -> StereoPair | None:
        """Return a pair on the canvas, decoded if it is not yet; None if it cannot be decoded or read, which is counted."""
        if isinstance(pair, StereoPair):
            return pair
        if pair is None:
            self.memory.quarantined += 1
            return None
        try:
            return decode_onto(self.config.memory.canvas, pair)
        except MalformedMessage as error:
            self.undecodable += 1
            self._spoiled.append(pair.header)
            if self.undecodable & (self.undecodable - 1) == 0:  # the 1st, 2nd, 4th, ...: a device could fill the disk
                log.warning("dropped pair=%s count=%d %s", pair.header.name, self.undecodable, error)
            return None

    def train(self, rate_factor: float) -> StepReport:
        """Train on this process's part of the next batch. All members do this together."""
        draw = self.memory.draw(self.config.pacing.batch_size // collectives.count())
        batch = self.memory.batch(draw, self.trainer.device)
        if not self.trainer.steps:
            _require_signals(batch, self.config.objective.name)
        step = self.trainer.step(batch, rate_factor)
        if step.is_refused:
            names = collectives.gather(list(itertools.compress(self.memory.names_of(draw), step.is_bad)))
            self.memory.refuse(draw, step.is_bad)
            return replace(step.report, refused=tuple(dict.fromkeys(itertools.chain.from_iterable(names))))
        fresh = self.memory.fresh_captures(draw)  # before `score`, after which other pairs may have their slots
        self.memory.score(draw, step.priority)
        return replace(step.report, fresh=fresh)

    def counts(self) -> PairCounts:
        """Count the pairs of this process."""
        memory = self.memory
        dropped = memory.dropped_fresh, memory.quarantined, self.undecodable
        return PairCounts(len(memory), memory.fresh, memory.kept, *dropped, clips=len(memory.ranking.reservoir))

    def part(self) -> Part:
        """Return this member's part of a state."""
        return self.memory.state_dict(), self.trainer.generator.get_state()

    def load(self, state: State, part: Part, pairs: Iterable[EncodedPair | None]) -> None:
        """Continue from a state, which is common to all members, and this member's part of it with its pairs.

        Raises LookupError, ValueError or RuntimeError if the state does not fit the settings.
        """
        memory, generator = part
        self.trainer.load_state_dict(state, generator)
        self.memory.load_state_dict(memory, decode_all(self.config.memory.canvas, pairs))
        # The leader's count includes that of the processes before.
        self.undecodable = 0 if collectives.number() else state["counts"]["undecodable"]


def _require_signals(batch: Batch, objective: str) -> None:
    """Raise SettingsError, with the remedy, for signals that no pair of a batch has, in all processes. All call it together.

    objective: the name of the one that needs the signals of the batch.
    """
    is_there = {
        name: collectives.all_values(values.isfinite().any(1).cpu().numpy()).any()
        for name, values in batch.signals.items()
    }
    if missing := [name for name, is_known in is_there.items() if not is_known]:
        names, topics = " and ".join(missing), " and ".join(f"/signals/{name}" for name in missing)
        raise SettingsError(
            f"objective {objective} needs the signal{'s' * (len(missing) > 1)} {names}, which no pair of the first batch has: "
            f"start the rig with --signals, or learn from --source 'sim?reward=room', or from a recording with {topics}"
        )
