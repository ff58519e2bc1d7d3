"""Forks the processes of a run, as torchrun would start them, from one that has loaded torch; tasks come as lines of JSON.

Each task is answered with the exit codes, in the order of ranks, once every process has ended and been waited for.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any

import pytest
import torch
from tiny_learner import make_pair
from torch import Generator, Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

import learner.cli.compose  # noqa: F401 - all that a process would load
from benchmarks.shared.machine import free_port
from learner.__main__ import main
from learner.objectives.contract import Batch
from learner.views.crops import shrink, to_rgb
from learner.views.guided import GuidedMaker, GuidedViews
from stream.codec import decode

torch.set_num_threads(1)

PATCH = pytest.MonkeyPatch()  # in a process of its own: never undone
POISONED = 21
"""The number of a pair that `poisoned_look` cannot see."""


def plain_look(self: GuidedMaker, batch: Batch, generator: Generator) -> GuidedViews:
    """The same views of a pair in whichever process: its whole images, and no chance in them."""

    def seen(images: Tensor, side: int) -> Tensor:
        return to_rgb(shrink(images, side))

    count, nothing = len(batch), torch.zeros(len(batch), 4)
    small = seen(batch.right, self.config.student_size)
    views = torch.stack([small, small.flip(-1)], 1)
    left = seen(batch.left, self.config.teacher_size)
    attention, crops = torch.zeros(count, 1, 1, 1), torch.zeros(count, 2, 4)
    head = torch.zeros(count, dtype=torch.long)
    return GuidedViews(left[:, None], views, attention, head, nothing, nothing, crops)


def poisoned_look(self: GuidedMaker, batch: Batch, generator: Generator) -> GuidedViews:
    """In the pair POISONED nothing sensible can be seen."""
    look, poison = plain_look(self, batch, generator), torch.from_numpy(decode(make_pair(POISONED)).left)
    look.small[(batch.left == poison).flatten(1).all(1)] *= torch.nan
    return look


def die_after(steps: int) -> None:
    """Be killed in the middle of the step after so many: between its gradient and the new weights."""

    def count(optimizer: Any, *_: Any) -> None:
        taken = next((int(state["step"]) for state in optimizer.state.values()), 0)
        if taken == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_pre_hook(count)


def live(task: dict[str, Any], rank: int, port: int) -> int:
    said = os.open(f"{task['said']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    names = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK")
    places = [str(task["processes"])] * 2 + [str(rank)] * 2
    os.environ.update(zip(names, places, strict=True), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if task["look"] is not None:
        PATCH.setattr(GuidedMaker, "__call__", {"plain": plain_look, "poisoned": poisoned_look}[task["look"]])
    if task["dies"] is not None and task["dies"][0] == rank:
        die_after(task["dies"][1])
    try:
        return main(task["words"])
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def born(task: dict[str, Any], rank: int, port: int) -> int:
    pid = os.fork()
    if not pid:
        code = 3
        try:
            code = live(task, rank, port)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


if __name__ == "__main__":
    for line in sys.stdin:
        work = json.loads(line)
        here = free_port()
        pids = [born(work, rank, here) for rank in range(work["processes"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        sys.stdout.write(json.dumps(codes) + "\n")
        sys.stdout.flush()
