"""A learner small enough for tests, and pairs for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from buffer.store import Store
from learner.config import LearnerConfig
from learner.loop import Learner
from learner.memory.config import MemoryConfig
from learner.networks.encoder import EncoderConfig
from learner.objectives.babyagent import BabyAgentConfig
from learner.pacing import PacingConfig
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.folder import RunDirectory
from learner.runs.restore import restore
from learner.schedule import ScheduleConfig
from stream.codec import encode_pair
from stream.pair import Codec, EncodedPair

torch.set_num_threads(1)

EPOCH = "b" * 32
CANVAS = (24, 32)
TINY = LearnerConfig(
    encoder=EncoderConfig(backbone="vit_tiny_patch16_224", image_size=16, patch_size=8, embed_dim=32, depth=2, heads=2),
    objective=BabyAgentConfig(
        crops=2,
        attention_size=24,
        teacher_size=16,
        student_size=16,
        prototypes=16,
        hidden=32,
        bottleneck=16,
        teacher_temperature=0.05,
        student_temperature=0.1,
    ),
    memory=MemoryConfig(capacity=24, fresh_capacity=16, canvas=CANVAS),
    pacing=PacingConfig(replay_ratio=4.0, batch_size=8),
    schedule=ScheduleConfig(warmup_steps=2),
)
"""A step takes some milliseconds on one core."""
FLAGS = (
    *("--objective", "babyagent"),
    *("--encoder.image-size", "16", "--encoder.embed-dim", "32", "--encoder.depth", "2", "--encoder.heads", "2"),
    *("--objective.attention-size", "24", "--objective.teacher-size", "16", "--objective.student-size", "16"),
    *("--objective.prototypes", "16", "--objective.hidden", "32", "--objective.crops", "2"),
    *("--pacing.batch-size", "8", "--pacing.replay-ratio", "4", "--control-limit", "40", "--threads", "1"),
    *("--holdout", "0"),
)
"""Much the same for `python -m learner`; what its memory holds is left to each test."""


def tiny_learner(config: LearnerConfig = TINY) -> Learner:
    return Learner(config, torch.device("cpu"))


def committed(run: Path, config: LearnerConfig = TINY) -> Learner:
    """A learner as the newest commit in the folder of a run has it."""
    directory, learner = RunDirectory(run, config), Learner(config, torch.device("cpu"), begins=False)
    with Store(directory.store) as store:
        assert restore(learner, store, CheckpointFolder(directory.checkpoints)) is not None
    return learner


def make_pair(seq: int, size: tuple[int, int] = CANVAS, *, codec: Codec = "lz4", suppressed: int = 0) -> EncodedPair:
    """Number `seq` of the device `baby`: smooth colours that only this pair has, each eye its own."""
    coarse = np.random.default_rng(seq).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    left, right = (np.asarray(cv2.resize(eye, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8) for eye in coarse)
    return encode_pair(
        left, right, device="baby", epoch=EPOCH, seq=seq, left_ns=seq, right_ns=seq, codec=codec, suppressed=suppressed
    )


def make_pairs(count: int, first: int = 0) -> list[EncodedPair]:
    return [make_pair(seq) for seq in range(first, first + count)]
