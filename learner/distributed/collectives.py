"""The processes of one run, as torchrun starts them, and their collective operations. In one process these do nothing.

A collective operation returns once every process has called it. The first process, number 0, leads
(`learner.distributed.team`). Tensors of a GPU travel by NCCL, everything else by gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from buffer.validation import MAX_SHARDS
from learner.errors import SettingsError

_T = TypeVar("_T")

JOIN_TIMEOUT = timedelta(minutes=5)
"""Longest time that a process waits for the others at the start."""
OPERATION_TIMEOUT = timedelta(hours=6)
"""Longest time that a process waits for a busy one, such as the leader during a probe. A dead process is noticed at once."""

_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""The former is the latter's name since torch 2.14, which warns of the old one."""


@dataclass(frozen=True)
class Process:
    """This process among `count`, of which `local_count` are on this machine; both numbers are from 0."""

    number: int = 0
    count: int = 1
    local_number: int = 0
    local_count: int = 1


def process_of(environment: Mapping[str, str]) -> Process:
    """Read the variables that torchrun sets; without them there is one process. Raises SettingsError if they do not fit."""
    if environment.get("WORLD_SIZE", "1") == "1":
        return Process()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [environment.get(name, "") for name in names]
    if all(value.isdecimal() and len(value) <= 9 for value in values):
        process = Process(*map(int, values))
        if process.number < process.count <= MAX_SHARDS and process.local_number < process.local_count <= process.count:
            return process
    found = " ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
    raise SettingsError(
        f"{found} is no place among at most {MAX_SHARDS} processes: start with torchrun --nproc-per-node K -m learner ..., "
        "or unset them for one process"
    )


def require_alone(command: str) -> None:
    """Raise SettingsError if torchrun started several of this process: only training shares its work."""
    if process_of(os.environ).count > 1:
        raise SettingsError(f"`{command}` runs in one process: start it without torchrun")


@contextmanager
def process_group(process: Process, *, device: torch.device) -> Iterator[None]:
    """Be one of the processes inside the context. Raises ConnectionError if they do not find each other."""
    if process.count == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _lost_processes():
        store, _, _ = next(rendezvous("env://", process.number, process.count, timeout=JOIN_TIMEOUT))
        dist.init_process_group(
            backend, store=store, rank=process.number, world_size=process.count, timeout=OPERATION_TIMEOUT
        )
    try:
        yield
    finally:
        dist.destroy_process_group()


def number() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_rows(rows: Tensor) -> Tensor:
    """Gather the rows of all processes, each with as many: [B / count, ...] to [B, ...], in their order, without gradient."""
    if count() == 1:
        return rows
    gathered = rows.new_empty((count() * len(rows), *rows.shape[1:]))
    with _lost_processes():
        _GATHER(gathered, rows.contiguous())
    return gathered


def everyone(rows: Tensor) -> Tensor:
    """Gather the rows of all processes as `all_rows`, with gradient: each process gets that of all losses for its own rows.

    Gradients are averaged over the processes afterwards (`average_`), so a term that every process computes counts once.
    """
    return rows if count() == 1 else _Everyone.apply(rows)


def shared_mean(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes, with gradient."""
    return values if count() == 1 else everyone(values[None]).mean(0)


class _Everyone(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, rows: Tensor) -> Tensor:
        return all_rows(rows)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        with _lost_processes():
            dist.all_reduce(total)
        return own_rows(total)


def own_rows(rows: Tensor) -> Tensor:
    """Return the rows of this process out of those of `all_rows`: [B, ...] to [B / count, ...]."""
    return rows.chunk(count())[number()]


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one type by their means over the processes, in place; all processes get the same bits."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with _lost_processes():
        dist.all_reduce(flat)
    flat /= count()
    means = torch.split_with_sizes(flat, [tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def all_values(values: NDArray[Any]) -> NDArray[Any]:
    """Gather the values of all processes, any number [n] from each, in their order."""
    return np.concatenate(broadcast(gather(values)))


def broadcast(value: _T) -> _T:
    """Return the value of the leader in every process; the values of the others are ignored."""
    if count() == 1:
        return value
    values = [value]
    with _lost_processes():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def scatter(parts: Sequence[_T]) -> _T:
    """In the leader: send each process its own of `parts` [count], and return that of the leader."""
    if count() > 1:
        with _lost_processes():
            dist.scatter_object_list([None], list(parts), src=0)
    return parts[0]


def receive() -> Any:
    """In the other processes: return the part that the leader scatters to this one."""
    received = [None]
    with _lost_processes():
        dist.scatter_object_list(received, None, src=0)
    return received[0]


def gather(value: _T) -> list[_T]:
    """Return to the leader the values of all processes, in their order; to the others an empty list."""
    if count() == 1:
        return [value]
    values: list[Any] | None = [None] * count() if number() == 0 else None
    with _lost_processes():
        dist.gather_object(value, values, dst=0)
    return values or []


@contextmanager
def _lost_processes() -> Iterator[None]:
    """Turn torch's errors about processes that have gone into a ConnectionError in one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ConnectionError(
            "another process of this run is gone: start the same command again, with as many processes as you like, "
            f"to go on from the last commit ({reason})"
        ) from error
