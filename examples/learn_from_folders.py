"""Learn from two folders of images, left and right, without a rig process, and export the weights.

Files with the same name are a pair. They go through the rig's own loop: what shows nothing new is left out, the rest is encoded.
Run it with: python examples/learn_from_folders.py LEFT RIGHT --out runs/folders/student.safetensors
"""

import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro

from device.cameras.recorded.folders import open_folders
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from learner.config import PRESETS, to_plain
from learner.loop import Learner, StepReport, learn
from learner.weights.export import export_encoder
from stream.source import IteratorSource

Folder = tyro.conf.Positional[Path]


def main(left: Folder, right: Folder, out: Path = Path("student.safetensors"), batch_size: int = 16) -> None:
    preset = PRESETS["cpu"]
    config = replace(preset, pacing=replace(preset.pacing, batch_size=batch_size))
    learner = Learner(config, torch.device("cpu"))
    pairs = capture(open_folders(left, right), Dedupe(DedupeConfig()), device="folders", epoch="0" * 32)
    for event in learn(learner, IteratorSource(pairs), clock=time.monotonic):
        if isinstance(event, StepReport):
            print(f"step {event.step}  pairs {event.received}  loss {event.loss:.3f}")
    student = learner.objective.encoders()["student"]
    card = export_encoder(student, out, figures={"steps": learner.steps}, settings=to_plain(config))
    print(f"{learner.received} pairs, {learner.steps} steps; load the weights with: {card['load']}")


tyro.cli(main)
