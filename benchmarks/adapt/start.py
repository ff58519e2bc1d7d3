"""A small backbone to start from, that the bench trains itself, in a world of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.shared.bench import report_progress
from benchmarks.shared.pairs import walk_pairs
from benchmarks.shared.probing import student_of, train_to, use_one_thread
from benchmarks.shared.results import fingerprint
from device.sim.camera import SimConfig
from learner.config import preset, to_plain
from learner.loop import Learner
from learner.weights.export import export_encoder

FIRST_WORLD = 1000
"""The world of seed N is that of the simulator's seed FIRST_WORLD + N: another one than any that is streamed afterwards."""


def made_start(seed: int, folder: Path, steps: int) -> Path:
    """Return the file of a backbone that was trained at preset `cpu` on a walk with procedural pictures.

    It is trained first if the folder does not have it. A budget in steps gives the same weights every time.
    """
    config = replace(preset("cpu"), seed=seed)
    path = folder / f"start-{seed}-{steps}-{fingerprint(config)}.safetensors"
    if not path.is_file():
        use_one_thread()
        learner = Learner(config, torch.device("cpu"))
        pairs = walk_pairs(SimConfig(seed=FIRST_WORLD + seed))
        for cpu_s in train_to(learner, pairs, [steps]):
            export_encoder(student_of(learner), path, figures={"steps": learner.steps}, settings=to_plain(config))
            report_progress(f"seed {seed}  a start of {learner.steps} steps, {cpu_s:.0f} CPU-s: {path}")
    return path
