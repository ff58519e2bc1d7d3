"""`python -m learner cooldown RUN` exports better weights, from a short branch that does not change the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import torch
import tyro
from rich.console import Console

from learner.distributed.collectives import require_alone
from learner.errors import SettingsError
from learner.service.screen import Screen, log_to
from learner.weights.cooldown import branch, cool_down, export
from stream.host.command import Command
from stream.host.program import Result, Stop

DESCRIPTION = """Export better weights: a short branch from the newest commit of a run, with a learning rate that falls to 0.

  python -m learner cooldown runs/rig                 while a learner works there, or afterwards
  python -m learner cooldown runs/rig --steps 500

It trains on the pairs of that commit, receives no others, and writes only RUN/export/cooldown-student.safetensors and
cooldown-teacher.safetensors, each with a model card. The run itself is not changed; a learner at work is a little slower.
Exit codes: 0 done, 1 failed on the way, 2 wrong settings."""


@dataclass(frozen=True, kw_only=True)
class CooldownSettings:
    """Train a short branch of a run with a falling learning rate, and export its weights (a cool-down)."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run directory."""
    steps: int = 200
    """Steps of the branch; usual is a tenth of the steps of the run."""
    device: Literal["cpu", "cuda"] = "cpu"
    """The compute device to train the branch on."""
    threads: int = 1
    """Threads of torch on the CPU."""
    json: bool = False
    """Print only the result, as JSON."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.threads < 1:
            raise SettingsError(f"--steps and --threads must be at least 1, got {self.steps} and {self.threads}")


def run(settings: CooldownSettings, stop: Stop) -> Result:
    """Train the branch and export its weights; after a `stop` nothing is written.

    Raises Diverged if the branch failed, another LearnerError for a folder that cannot be used.
    """
    require_alone("cooldown")
    cv2.setNumThreads(1)
    torch.set_num_threads(settings.threads)
    console = Console(stderr=settings.json)
    log_to(console)
    learner, directory = branch(settings.run, torch.device(settings.device))
    began, losses = learner.steps, list[float]()
    with Screen(console, quiet=settings.json) as screen:
        for report in cool_down(learner, settings.steps):
            if stop.is_set():
                return Result(f"stopped after {len(losses)} of {settings.steps} steps: nothing was written")
            losses.append(report.loss)
            screen.step(report, learner.config.pacing.batch_size, f"cooling down {len(losses)}/{settings.steps}")
    figures = {"from_step": began, "cooldown_steps": settings.steps, "loss_first": losses[0], "loss_last": losses[-1]}
    paths = [str(path) for path in export(learner, directory.export, figures)]
    text = f"cooled down from step {began}: loss {losses[0]:.3f} -> {losses[-1]:.3f}"
    return Result("\n".join([text, *paths]), figures | {"exported": paths})


COMMAND = Command(run=run, settings=CooldownSettings, description=DESCRIPTION)
