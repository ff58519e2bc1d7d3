"""`python -m learner cooldown RUN`: weights to hand on, from a branch that leaves the run as it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import torch
import tyro
from rich.console import Console

from learner.errors import SettingsError
from learner.service.screen import Screen, log_to
from learner.weights.cooldown import branch, cool_down, export

DESCRIPTION = """Export weights that have settled: a short branch off a run's newest commit, its learning rate falling to nothing.

  python -m learner cooldown runs/rig                 beside the learner at work there, or after it
  python -m learner cooldown runs/rig --steps 500

It trains on the pairs of that commit, receives none, and writes only RUN/export/cooldown-student.safetensors and
cooldown-teacher.safetensors, with a card each. The run goes on as if there had been no branch, a little slower while it lasts.
Exit codes: 0 done, 1 failed on the way, 2 wrong settings."""


@dataclass(frozen=True, kw_only=True)
class CooldownSettings:
    """Cool a run down."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    steps: int = 200
    """Length of the branch; a tenth of the run's steps is usual."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train the branch."""
    threads: int = 1
    """Torch's threads on the CPU."""
    json: bool = False
    """Print nothing but what came of it, as JSON."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.threads < 1:
            raise SettingsError(f"--steps and --threads must be at least 1, got {self.steps} and {self.threads}")


def run(words: Sequence[str], stop: Callable[[], bool]) -> str:
    """Cool a run down and export it; returns what is to be said. A `stop` before the end leaves nothing.

    Raises Diverged where the branch failed, another LearnerError for a folder that cannot be used.
    """
    settings = tyro.cli(CooldownSettings, prog="python -m learner cooldown", args=list(words), description=DESCRIPTION)
    cv2.setNumThreads(1)
    torch.set_num_threads(settings.threads)
    console = Console(stderr=settings.json)
    log_to(console)
    learner, directory = branch(settings.run, torch.device(settings.device))
    began, losses = learner.steps, list[float]()
    with closing(Screen(console, time.monotonic, quiet=settings.json)) as screen:
        for report in cool_down(learner, settings.steps):
            if stop():
                return f"stopped after {len(losses)} of {settings.steps} steps: nothing was written"
            losses.append(report.loss)
            screen.step(report, learner.config.pacing.batch_size, f"cooling down {len(losses)}/{settings.steps}")
    figures = {"from_step": began, "cooldown_steps": settings.steps, "loss_first": losses[0], "loss_last": losses[-1]}
    paths = [str(path) for path in export(learner, directory.export, figures)]
    if settings.json:
        return json.dumps(figures | {"exported": paths})
    return "\n".join([f"cooled down from step {began}: loss {losses[0]:.3f} -> {losses[-1]:.3f}", *paths])
