"""Learn with a memory policy of one's own: the first pairs are never forgotten, and the last ones share the other half.

Run it with: python examples/own_policy.py walk.mcap (a policy is a reservoir that decides which keys, the arrival numbers, stay)
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro

from buffer.index import Keys
from buffer.reservoir import Reservoir
from learner.config import PRESETS
from learner.loop import Learner, learn
from learner.memory.memory import Memory
from learner.memory.ranking import Ranking
from stream.recording.source import RecordingSource


class FirstAndLast(Reservoir):
    def compete(self, keys: Keys, ranks: object) -> tuple[np.ndarray, Keys]:
        known, half = np.sort(np.concatenate([self.keys(), keys])), self.settings.capacity // 2
        staying = np.union1d(known[:half], known[-half:])
        return np.isin(keys, staying), self.slots(np.setdiff1d(self.keys(), staying))


def main(recording: tyro.conf.Positional[Path], capacity: int = 2048, batch_size: int = 128) -> None:
    cpu, policy = PRESETS["cpu"], FirstAndLast(capacity, seed=0)
    memory = Memory(replace(cpu.memory, capacity=capacity), seed=0, ranking=Ranking(policy))
    config = replace(cpu, pacing=replace(cpu.pacing, batch_size=batch_size))
    learner = Learner(config, torch.device("cpu"), memory=memory)
    list(learn(learner, RecordingSource([recording]), clock=time.monotonic))
    print(f"{learner.steps} steps, kept {sorted(policy.keys().tolist())}")


tyro.cli(main)
