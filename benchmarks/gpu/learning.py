"""Does the learner learn on this device? Measures k-NN before and after training, for `babyagent` with two sets of numbers.

It uses the time that is left. The pairs are drawn at random from all pairs of the walk, because this is about the device and the
objective, not about memory. k-NN is that of frozen features on scikit-learn's digits and, where they exist, on the walk's rooms
as two other walks see them.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.parts import Task
from benchmarks.gpu.pictures import decode, has_places, read_pairs
from benchmarks.gpu.workload import Workload
from learner.memory.slots import Slots
from learner.probes.control_sets import ControlSet, load_control
from learner.probes.probe import extract, knn_accuracy
from learner.trainer import Trainer

MOST_PAIRS = 6000
TRAINED = ("babyagent", "original")


def run(task: Task) -> None:
    """Train with each objective for an equal part of the time."""
    work = Workload.of(task)
    pairs = read_pairs(Path(task.pictures), MOST_PAIRS)
    slots = Slots(len(pairs), work.config.memory.canvas)
    decode(pairs, slots.left.numpy(), slots.right.numpy(), slots.aspect.numpy())
    controls = control_sets(task, work)
    for left, name in zip(range(len(TRAINED), 0, -1), TRAINED, strict=True):
        changed = work.changed(objective=work.objectives[name])
        task.attempt(name, partial(learned, task, name, changed, slots, controls, task.left_s() / left))


def control_sets(task: Task, work: Workload) -> list[ControlSet]:
    """Load the control sets that exist; at rehearsal scale only a part of each."""
    places = [f"places={task.pictures}/places"] if has_places(Path(task.pictures)) else []
    most = {} if task.is_full else {"limit_train": 60, "limit_test": 60}
    return [load_control(spec, size=work.large, **most) for spec in ["digits", *places]]


def learned(
    task: Task, name: str, work: Workload, slots: Slots, controls: list[ControlSet], seconds: float
) -> dict[str, Any]:
    """Probe, train, and probe again. Time is reserved for the second probe, which takes as long as the first."""
    began_s = time.monotonic()
    trainer, random = Trainer(work.config, work.device), np.random.default_rng(work.config.seed)
    before = accuracies(trainer, controls)
    trained_s, losses = time.monotonic(), list[float]()
    end_s = began_s + seconds - 1.3 * (trained_s - began_s)
    while not losses or time.monotonic() < end_s:
        drawn = random.integers(len(slots.names), size=work.sizes[0]).astype(np.intp)
        step = trainer.step(slots.batch(drawn, work.device))
        trainer.require_progress(step.report)
        losses.append(step.report.loss)
        if trainer.steps % 100 == 0:
            task.report(name, {"steps": trainer.steps, "loss": float(np.mean(losses[-100:])), "knn_before": before})
    took_s = time.monotonic() - trained_s
    after = accuracies(trainer, controls)
    return {
        "pairs": len(slots.names),
        "steps": trainer.steps,
        "pairs_per_s": trainer.samples / took_s,
        "loss_first": float(np.mean(losses[:20])),
        "loss_last": float(np.mean(losses[-20:])),
        "rollbacks": trainer.guard.rollbacks,
        "knn_before": before,
        "knn_after": after,
        "knn_gain": {name: after[name] - before[name] for name in after},
    }


def accuracies(trainer: Trainer, controls: list[ControlSet]) -> dict[str, float]:
    """Return the k-NN accuracy (0 to 1) of student and teacher on each set.

    Features are computed in bfloat16 if the backbone is trained in bfloat16.
    """
    found, device = {}, trainer.device
    for control in controls:
        for name, encoder in trainer.objective.encoders().items():
            with torch.autocast(device.type, torch.bfloat16, enabled=trainer.config.precision == "bfloat16"):
                bank = extract(encoder, control.train_images, device=device)
                query = extract(encoder, control.test_images, device=device)
            accuracy = knn_accuracy(bank, control.train_labels, query, control.test_labels)
            found[f"{control.name} {name}"] = accuracy
    return found
