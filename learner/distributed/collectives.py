"""The processes of one run, as torchrun starts them, and how they speak. In one process nothing here does anything.

Everything is said in step: a call returns once every process has made the same one. The first process, rank 0, leads
(`learner.distributed.leader`). Tensors of a GPU travel by NCCL, everything else by gloo.
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
"""How long a process waits for the others at the start."""
SPEAK_TIMEOUT = timedelta(hours=6)
"""How long it waits for one that is busy, as the first is while it probes. One that died is noticed at once."""


@dataclass(frozen=True)
class World:
    """This process's place among `count` of them, of which `local_count` are on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1


def world_of(environment: Mapping[str, str]) -> World:
    """The place that torchrun gave this process; alone where it gave none. Raises SettingsError where it makes no sense."""
    if environment.get("WORLD_SIZE", "1") == "1":
        return World()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    found = [environment.get(name, "") for name in names]
    if all(word.isdecimal() and len(word) <= 9 for word in found):
        world = World(*map(int, found))
        if world.rank < world.count <= MAX_SHARDS and world.local_rank < world.local_count <= world.count:
            return world
    said = " ".join(f"{name}={word}" for name, word in zip(names, found, strict=True))
    raise SettingsError(
        f"{said} is no place among at most {MAX_SHARDS} processes: start with torchrun --nproc-per-node K -m learner ..., "
        "or unset them for one process"
    )


def require_alone(command: str) -> None:
    """Raise SettingsError where torchrun started several of this process: only training shares its work."""
    if world_of(os.environ).count > 1:
        raise SettingsError(f"`{command}` runs in one process: start it without torchrun")


@contextmanager
def joined(world: World, *, device: torch.device) -> Iterator[None]:
    """Be one of the processes meanwhile. Raises ConnectionError where they do not find each other."""
    if world.count == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _speaking():
        store, _, _ = next(rendezvous("env://", world.rank, world.count, timeout=JOIN_TIMEOUT))
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.count, timeout=SPEAK_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, each with as many: [B / count, ...] to [B, ...], in the order of ranks; no gradient."""
    if count() == 1:
        return rows
    everyones = rows.new_empty((count() * len(rows), *rows.shape[1:]))
    with _speaking():
        dist.all_gather_into_tensor(everyones, rows.contiguous())
    return everyones


def own(rows: Tensor) -> Tensor:
    """The part of gathered rows that came from here: [B, ...] to [B / count, ...]."""
    return rows.chunk(count())[rank()]


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one type by their means over the processes; all of them get the same bits."""
    if count() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with _speaking():
        dist.all_reduce(flat)
    flat /= count()
    means = torch.split_with_sizes(flat, [tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def pooled(values: NDArray[Any]) -> NDArray[Any]:
    """The values [n] of all processes, n of each its own, in the order of ranks."""
    if count() == 1:
        return values
    everyones: list[NDArray[Any]] = [values] * count()
    with _speaking():
        dist.all_gather_object(everyones, values)
    return np.concatenate(everyones)


def told(value: _T) -> _T:
    """What the first process says to all; what the others say is nothing."""
    if count() == 1:
        return value
    said = [value]
    with _speaking():
        dist.broadcast_object_list(said, src=0)
    return said[0]


def dealt(parts: Sequence[_T] | None) -> _T:
    """What the first process gives to this one, of `parts` [count]; None from the others."""
    if count() == 1:
        assert parts is not None
        return parts[0]
    received: list[Any] = [None]
    with _speaking():
        dist.scatter_object_list(received, None if parts is None else list(parts), src=0)
    part: _T = received[0]
    return part


def collected(value: _T) -> list[_T]:
    """To the first process what all say, in the order of ranks; to the others nothing."""
    if count() == 1:
        return [value]
    everyones: list[Any] | None = [None] * count() if rank() == 0 else None
    with _speaking():
        dist.gather_object(value, everyones, dst=0)
    return everyones or []


@contextmanager
def _speaking() -> Iterator[None]:
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
