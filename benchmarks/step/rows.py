"""The rows of the step bench that need no stream: our step and the peers', on one batch that stays the same."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from unittest import mock

import torch
from PIL import Image
from torch import Tensor

from benchmarks.shared.pairs import rendered_pairs
from benchmarks.step.peers import PEERS, Peer
from benchmarks.step.rig import VIEWS
from learner.config import LearnerConfig
from learner.loop import Learner
from learner.objectives.contract import Batch, Look

BARE, FROM_VIEWS, WITH_VIEWS = "bare", "from views", " with views"
Step = Callable[[], None]


def resting_steps(
    config: LearnerConfig, device: torch.device, peers: Sequence[str], size: tuple[int, int]
) -> dict[str, Step]:
    """One training step of each row, by its name; the images are views of the simulated walk on the memory's canvas."""
    learner = Learner(config, device)
    for pair in islice(cycle(rendered_pairs(VIEWS, size)), config.pacing.batch_size):
        learner.add(pair)
    batch = learner.memory.batch(learner.memory.draw(config.pacing.batch_size), device)
    look = learner.objective.look(batch, learner.trainer.generator)
    steps: dict[str, Step] = {
        BARE: lambda: bare_step(learner, batch),
        FROM_VIEWS: lambda: step_from(learner, batch, look),
    }
    lefts, rights = _images(batch.left), _images(batch.right)
    for name in peers:
        steps |= _peer_steps(name, PEERS[name](config, device), lefts, rights)
    return steps


def bare_step(learner: Learner, batch: Batch) -> None:
    """Views, forward, backward, optimiser and EMA on one batch: the least that a step of this objective is."""
    config, objective = learner.config, learner.objective
    with torch.autocast(learner.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        outcome = objective(batch, learner.trainer.generator)
    learner.trainer.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(outcome.losses.mean())
    torch.nn.utils.clip_grad_norm_(objective.trained(), config.schedule.clip_grad_norm)
    learner.trainer.optimizer.step()
    objective.after_step()


def step_from(learner: Learner, batch: Batch, look: Look) -> None:
    """`bare_step` on views that were made before."""
    with mock.patch.object(learner.objective, "look", return_value=look):
        bare_step(learner, batch)


def peak_mib(
    config: LearnerConfig, device_name: str, row: str, size: tuple[int, int], threads: int, count: int = 2
) -> float:
    """Peak memory in MiB of so many steps of one row, in a fresh process: of the GPU, or resident with all libraries."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    step = resting_steps(config, device, [row.removesuffix(WITH_VIEWS)] if row != BARE else [], size)[row]
    for _ in range(count):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def timed(step: Step, device: torch.device, count: int) -> float:
    """Seconds of one step, the mean over so many."""
    began_s = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began_s) / count


def _peer_steps(name: str, peer: Peer, lefts: list[Image.Image], rights: list[Image.Image]) -> dict[str, Step]:
    views = peer.views(lefts, rights)
    return {name: lambda: peer.step(views), name + WITH_VIEWS: lambda: peer.step(peer.views(lefts, rights))}


def _images(batch: Tensor) -> list[Image.Image]:
    """Images for the peers' transforms, from uint8 [B, H, W, 3] BGR."""
    return [Image.fromarray(image) for image in batch.flip(-1).cpu().numpy()]
