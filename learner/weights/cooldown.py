"""A cool-down: a branch off a run's newest commit whose learning rate falls to nothing, for weights to hand on.

At a constant rate the weights never settle; a short branch with a falling one lets them, and the run itself goes on as if there
had been none. It reads the run's folder, also beside the learner at work there, trains on the pairs of the commit, receives none,
and writes only `export/cooldown-*`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from buffer.store import StoreReader
from learner.config import to_plain
from learner.errors import SettingsError
from learner.loop import Learner, StepReport
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import load_newest
from learner.runs.folder import RunDirectory
from learner.runs.settings import settings_of
from learner.schedule import cooldown_factor
from learner.weights.export import export_encoder


def branch(run: Path, device: torch.device) -> tuple[Learner, RunDirectory]:
    """The learner of the run's newest commit, on its own from here on. Raises LearnerError, StoreError where there is none."""
    config = settings_of(run)
    directory = RunDirectory(run, config)
    learner = Learner(config, device)
    checkpoints = CheckpointFolder(directory.checkpoints)
    if not directory.store.is_file() or load_newest(learner, StoreReader(directory.store), checkpoints) is None:
        raise SettingsError(f"{run} has no commit yet: wait for the first one, or give another run")
    if not len(learner.memory):
        raise SettingsError(f"{run} remembers no pair to cool down on: let it receive some first")
    return learner, directory


def cool_down(learner: Learner, steps: int) -> Iterator[StepReport]:
    """Train `steps` more steps on the pairs in memory, at a rate that falls to nothing. Raises Diverged."""
    for step in range(steps):
        yield learner.step(cooldown_factor(step, steps))


def export(learner: Learner, folder: Path, figures: dict[str, Any]) -> list[Path]:
    """Write cooldown-NAME.safetensors for each encoder, with cards that say so; returns their paths."""
    paths = []
    for name, encoder in learner.objective.encoders().items():
        paths.append(folder / f"cooldown-{name}.safetensors")
        export_encoder(encoder, paths[-1], figures=figures, settings=to_plain(learner.config))
    return paths
