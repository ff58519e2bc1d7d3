"""Training steps on one fixed batch, and the time that they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest import mock

import torch
from PIL import Image
from torch import Tensor

from learner.objectives.contract import Batch, Views
from learner.trainer import Trainer

Step = Callable[[], object]


def bare_step(trainer: Trainer, batch: Batch) -> Tensor:
    """Do the least that a step of this objective needs: views, forward, backward, optimiser and EMA. Returns the mean loss."""
    objective = trainer.objective
    loss = trainer.outcome(batch, trainer.generator).losses.mean()
    trainer.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(objective.trained(), trainer.config.schedule.clip_grad_norm)
    trainer.optimizer.step()
    objective.after_step()
    return loss.detach()


def views_from(trainer: Trainer, seen: Views) -> AbstractContextManager[object]:
    """Let the objective use these views inside the context, whatever the batch is."""
    return mock.patch.object(trainer.objective, "views", return_value=seen)


def step_from(trainer: Trainer, batch: Batch, seen: Views) -> Tensor:
    """Do a `bare_step` on views that were made before."""
    with views_from(trainer, seen):
        return bare_step(trainer, batch)


def timed(step: Step, device: torch.device, count: int) -> float:
    """Return the seconds of one step, as the mean over `count` steps. Earlier work of a GPU does not count."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    began_s = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return (time.perf_counter() - began_s) / count


def images_of(batch: Tensor) -> list[Image.Image]:
    """Convert uint8 [B, H, W, 3] BGR to the PIL images that the transforms of the peers take."""
    return [Image.fromarray(image) for image in batch.flip(-1).cpu().numpy()]
