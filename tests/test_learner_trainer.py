"""The trainer: one step over one batch, with PyTorch alone; a step that cannot be used changes nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learner_state import leaves, trained, weights, without_rate
from tiny_learner import EPOCH, TINY, make_pairs, tiny_learner
from torch import Generator

from learner.objectives.babyagent import BabyAgent
from learner.objectives.contract import Batch, Outcome
from learner.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
WITHOUT = ("cv2", "lz4", "mcap", "msgspec", "prometheus_client", "rich", "starlette", "tyro", "uvicorn", "zmq")
"""What a machine that only trains need not have."""
PROGRAM = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import torch
from learner.config import PRESETS
from learner.objectives.contract import Batch
from learner.trainer import Trainer

config = PRESETS["cpu"]
images = torch.zeros(2, *config.memory.canvas, 3, dtype=torch.uint8)
print(Trainer(config, torch.device("cpu")).step(Batch(images, images, torch.ones(2))).report.step)
"""


def test_a_step_needs_pytorch_and_timm_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(names=set(WITHOUT))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "1\n", done.stderr


def some_batch(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(3)
    left, right = torch.randint(0, 256, (2, count, *TINY.memory.canvas, 3), generator=generator, dtype=torch.uint8)
    return Batch(left, right, torch.full((count,), 4 / 3))


class Odd(BabyAgent):
    """The priority of the second pair of each batch is this one."""

    found = -1.0

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        outcome = super().forward(batch, generator)
        return replace(outcome, priority=torch.where(torch.arange(len(batch)) == 1, self.found, outcome.ranked_by))


@pytest.mark.parametrize("priority", [-1e-3, float("nan"), float("inf"), -float("inf")])
def test_a_priority_that_cannot_be_used_refuses_the_step_before_anything_moves(priority: float) -> None:
    trainer = Trainer(TINY, torch.device("cpu"))
    trainer.step(some_batch())
    trainer.objective.__class__ = Odd
    assert isinstance(trainer.objective, Odd)
    trainer.objective.found = priority
    before = without_rate(dict(leaves({**trainer.state_dict(), "counts": None})))
    step = trainer.step(some_batch())
    assert step.is_refused
    assert step.is_bad.tolist() == [False, True, False, False]
    assert without_rate(dict(leaves({**trainer.state_dict(), "counts": None}))) == before
    assert (trainer.steps, trainer.samples, trainer.refused_in_a_row) == (2, 4, 1)


def test_a_pair_of_negative_priority_is_named_and_put_in_quarantine(caplog: pytest.LogCaptureFixture) -> None:
    learner = tiny_learner()
    learner.objective.__class__ = Odd
    before = weights(learner)
    with caplog.at_level(logging.ERROR):
        reports = trained(learner, make_pairs(8))
    assert reports[0].refused == (f"baby/{EPOCH[:8]}/1",)
    assert without_rate(weights(learner)) == without_rate(before)
    assert learner.memory.quarantined == 1
    assert "a loss or gradient is not finite or a priority below 0" in caplog.text
