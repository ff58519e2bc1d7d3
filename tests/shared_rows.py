"""A batch norm and gathered rows as several processes compute them: each has its part of one batch."""

from __future__ import annotations

import os
import sys

import torch
from torch import Tensor, nn

from learner.distributed import collectives
from learner.networks.norm import SharedBatchNorm, share_statistics

COUNT = 12


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    """With a batch norm in its middle, whose weights are not those of its start."""
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=seeded(weight.numel())))
    return made


def images() -> Tensor:
    return torch.randn(COUNT, 3, 5, 5, generator=seeded(0)) + torch.arange(COUNT).view(-1, 1, 1, 1) / 4


def loss_of(rows: Tensor, everyones: Tensor) -> Tensor:
    """Each row against those of all: it depends on every other one."""
    return (rows @ everyones.T).logsumexp(1).mean()


def part() -> dict[str, Tensor]:
    """What this process comes to; gradients and statistics are of the whole batch."""
    made = network()
    assert share_statistics(made)
    own = collectives.own_rows(torch.arange(COUNT))
    found: dict[str, Tensor] = {}
    for gather in (collectives.everyone, collectives.all_rows):
        made.zero_grad()
        rows = made(images()[own])
        torch.autograd.backward(
            loss_of(rows, gather(rows) if gather is collectives.everyone else gather(rows.detach()))
        )
        gradients = [weight.grad for weight in made.parameters() if weight.grad is not None]
        collectives.average_(gradients)
        found |= {"rows": rows.detach(), gather.__name__: torch.cat([one.flatten() for one in gradients])}
    norm = made[1]
    assert isinstance(norm, SharedBatchNorm)
    norm.after_step()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return found | {"mean": norm.running_mean, "var": norm.running_var, "later": made.eval()(images()[own]).detach()}


def born(number: int, count: int, folder: str) -> int:
    """Start one of several processes, which leaves what it comes to in the folder."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        meet = f"file://{folder}/meet{count}"
        torch.distributed.init_process_group("gloo", init_method=meet, rank=number, world_size=count)
        torch.save(part(), f"{folder}/{count}-{number}")
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":  # the folder for what they come to, and how many processes, several times
    torch.set_num_threads(1)
    for processes in map(int, sys.argv[2:]):
        pids = [born(number, processes, sys.argv[1]) for number in range(processes)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert not any(codes), codes
