"""A cool-down: a short branch from the newest commit of a run, with a learning rate that falls to 0.

At a constant learning rate the weights keep moving around a minimum; a falling rate brings them closer to it. The run itself is
not changed, and a learner may work on it at the same time: the branch trains on the pairs of the commit, receives no others, and
writes only `export/cooldown-*`. Where the last probe was below the start (`learner.adapt.forgetting`), it begins at the weights
of the last good one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from buffer.store_reader import StoreReader
from learner.config import to_plain
from learner.errors import SettingsError
from learner.loop import Learner, StepReport
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.folder import RunDirectory
from learner.runs.restore import load_newest
from learner.runs.settings import settings_of
from learner.schedule import cooldown_factor
from learner.weights.export import export_encoder


def branch(run: Path, device: torch.device) -> tuple[Learner, RunDirectory]:
    """Return a learner at the newest commit of the run, and its run directory. Raises LearnerError or StoreError without one."""
    config = settings_of(run)
    directory = RunDirectory(run, config)
    learner = Learner(config, device, begins=False)
    checkpoints = CheckpointFolder(directory.checkpoints)
    found = None
    if directory.store.is_file():
        with StoreReader(directory.store).held() as store:
            found = load_newest(learner, store, checkpoints)
    if found is None:
        raise SettingsError(f"{run} has no commit yet: wait for the first one, or give another run")
    if not len(learner.memory):
        raise SettingsError(f"{run} has no pair in memory to cool down on: let it receive some first")
    if learner.trainer.fine is not None and learner.trainer.forgetting.worse_in_a_row:
        learner.trainer.go_back(learner.trainer.fine)
    return learner, directory


def cool_down(learner: Learner, steps: int) -> Iterator[StepReport]:
    """Train for `steps` steps on the pairs in memory, at a learning rate that falls to 0. Raises Diverged."""
    for step in range(steps):
        yield learner.step(cooldown_factor(step, steps))


def export(learner: Learner, folder: Path, figures: dict[str, Any]) -> list[Path]:
    """Write cooldown-NAME.safetensors with a model card for each encoder; return their paths."""
    paths = []
    for name, encoder in learner.objective.encoders().items():
        paths.append(folder / f"cooldown-{name}.safetensors")
        export_encoder(encoder, paths[-1], figures=figures, settings=to_plain(learner.config))
    return paths
