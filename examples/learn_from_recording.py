"""Learn from a recording, and measure the features before and after.

This is the learner's loop driven by a script instead of the command: choose settings, open a source, go through the steps.
Run it with: python -m stream record --connect tcp://RIG:5555 --out walk.mcap; python examples/learn_from_recording.py walk.mcap
"""

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
import tyro

from learner.config import PRESETS
from learner.loop import Learner, StepReport, learn
from learner.probes.control_sets import load_control
from learner.probes.probe import run_probe
from stream.recording.source import RecordingSource


def main(recording: tyro.conf.Positional[Path], steps: int = 200, batch_size: int = 128) -> None:
    preset = PRESETS["cpu"]
    learner = Learner(replace(preset, pacing=replace(preset.pacing, batch_size=batch_size)), torch.device("cpu"))
    digits = load_control("digits", size=32)
    student = learner.objective.encoders()["student"]
    print(f"k-NN on digits at the random start: {run_probe(student, digits).knn:.3f}")
    events = learn(learner, RecordingSource([recording]), clock=time.monotonic)
    for report in islice((event for event in events if isinstance(event, StepReport)), steps):
        print(f"step {report.step}  pairs {report.received}  loss {report.loss:.3f}")
    print(f"k-NN on digits after {learner.steps} steps: {run_probe(student, digits).knn:.3f}")


tyro.cli(main)
