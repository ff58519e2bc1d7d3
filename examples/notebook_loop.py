"""The loop of a notebook, cell by cell: settings, a source, steps, and at the end k-NN before and after.

Paste the cells into Jupyter, or open this file in an editor that knows `# %%`.
Run it with: python examples/notebook_loop.py (CAMERA=dir:LEFT,RIGHT and STEPS=200 in the environment change it)
"""

# %% Settings: a preset, with whatever is to be tried
import os
import time
from dataclasses import replace

import torch

from device.cli.capture_settings import RigSettings
from device.cli.local import open_local
from learner.config import preset
from learner.loop import Learner, StepReport, learn
from learner.objectives.foreign import objective_named
from learner.probes.control_sets import load_control
from learner.probes.probe import run_probe

config = preset("cpu", objective_named("simclr"))
config = replace(config, pacing=replace(config.pacing, batch_size=16), memory=replace(config.memory, policy="uniform"))
learner = Learner(config, torch.device("cpu"))
source = open_local(RigSettings(camera=os.environ.get("CAMERA", "sim")))
student, digits = learner.objective.encoders()["student"], load_control("digits", size=config.crops.probe_size)
before = run_probe(student, digits)

# %% Learn for some steps. Run this cell again to go on
losses: list[float] = []
for event in learn(learner, source, clock=time.monotonic):
    losses += [event.loss] if isinstance(event, StepReport) else []
    if len(losses) >= int(os.environ.get("STEPS", "200")):
        break
print(f"{learner.steps} steps on {learner.received} pairs: loss {losses[0]:.2f} -> {losses[-1]:.2f}")

# %% Did it help? plt.plot(losses) shows the way there
print(f"k-NN on digits {before.knn:.3f} -> {run_probe(student, digits).knn:.3f}")
source.close()
