"""An objective whose loss is not a number for some pairs, and such pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from tiny_learner import EPOCH, TINY, tiny_learner
from torch import Generator

from learner.config import LearnerConfig
from learner.loop import Learner
from learner.objectives.babyagent import BabyAgent
from learner.objectives.contract import Batch, Outcome
from stream.codec import encode_pair
from stream.pair import EncodedPair


class Poisonable(BabyAgent):
    """The loss of a pair whose left image is white all over is not a number, once it is poisonous."""

    poisonous = True

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        outcome = super().forward(batch, generator)
        white = (batch.left == 255).flatten(1).all(1)
        poison = torch.where(white & self.poisonous, torch.nan, 0.0)
        return replace(outcome, losses=outcome.losses + poison)


def white_pair(seq: int) -> EncodedPair:
    white = np.full((24, 32, 3), 255, np.uint8)
    return encode_pair(white, white, device="baby", epoch=EPOCH, seq=seq, left_ns=0, right_ns=0, codec="lz4")


def poisonable(config: LearnerConfig = TINY) -> Learner:
    learner = tiny_learner(config)
    learner.objective.__class__ = Poisonable
    return learner
