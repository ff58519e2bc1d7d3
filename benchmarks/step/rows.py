"""The rows of the step bench that need no stream: our step and the peers' steps, all on one fixed batch."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from itertools import cycle, islice

import torch
from PIL import Image

from benchmarks.shared.pairs import rendered_pairs
from benchmarks.step.bare import Step, bare_step, images_of, step_from
from benchmarks.step.peers import PEERS, Peer
from benchmarks.step.rig import VIEWS
from learner.config import LearnerConfig
from learner.loop import Learner

BARE, FROM_VIEWS, WITH_VIEWS = "bare", "from views", " with views"


def resting_steps(
    config: LearnerConfig, device: torch.device, peers: Sequence[str], size: tuple[int, int]
) -> dict[str, Step]:
    """Return a function for each row that does one training step.

    The images are views of the simulated walk on the memory's canvas.
    """
    learner = Learner(config, device)
    for pair in islice(cycle(rendered_pairs(VIEWS, size)), config.pacing.batch_size):
        learner.add(pair)
    learner.close_clips()
    batch = learner.memory.batch(learner.memory.draw(config.pacing.batch_size), device)
    seen = learner.objective.views(batch, learner.trainer.generator)
    steps: dict[str, Step] = {
        BARE: lambda: bare_step(learner.trainer, batch),
        FROM_VIEWS: lambda: step_from(learner.trainer, batch, seen),
    }
    lefts, rights = images_of(batch.left), images_of(batch.right)
    for name in peers:
        steps |= _peer_steps(name, PEERS[name](config, device), lefts, rights)
    return steps


def peak_mib(
    config: LearnerConfig, device_name: str, row: str, size: tuple[int, int], threads: int, count: int = 2
) -> float:
    """Return the peak memory of `count` steps of one row, MiB; call it in a new process.

    It is the memory of the GPU, or the resident memory with all libraries.
    """
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    step = resting_steps(config, device, [row.removesuffix(WITH_VIEWS)] if row != BARE else [], size)[row]
    for _ in range(count):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _peer_steps(name: str, peer: Peer, lefts: list[Image.Image], rights: list[Image.Image]) -> dict[str, Step]:
    views = peer.views(lefts, rights)
    return {name: lambda: peer.step(views), name + WITH_VIEWS: lambda: peer.step(peer.views(lefts, rights))}
