"""Training steps on one batch that stays the same, and the time they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest import mock

import torch
from PIL import Image
from torch import Tensor

from learner.objectives.contract import Batch, Look
from learner.trainer import Trainer

Step = Callable[[], object]


def bare_step(trainer: Trainer, batch: Batch) -> Tensor:
    """Views, forward, backward, optimiser and EMA: the least that a step of this objective is. Returns the mean loss."""
    objective = trainer.objective
    loss = trainer.outcome(batch, trainer.generator).losses.mean()
    trainer.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(objective.trained(), trainer.config.schedule.clip_grad_norm)
    trainer.optimizer.step()
    objective.after_step()
    return loss.detach()


def views_from(trainer: Trainer, look: Look) -> AbstractContextManager[object]:
    """Let the objective see these views, whatever the batch."""
    return mock.patch.object(trainer.objective, "look", return_value=look)


def step_from(trainer: Trainer, batch: Batch, look: Look) -> Tensor:
    """`bare_step` on views that were made before."""
    with views_from(trainer, look):
        return bare_step(trainer, batch)


def timed(step: Step, device: torch.device, count: int) -> float:
    """Return the seconds of one step, the mean over so many."""
    began_s = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began_s) / count


def images_of(batch: Tensor) -> list[Image.Image]:
    """Return images for the peers' transforms, from uint8 [B, H, W, 3] BGR."""
    return [Image.fromarray(image) for image in batch.flip(-1).cpu().numpy()]
