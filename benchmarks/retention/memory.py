"""The memory of a learner under a policy of retention; it counts its replays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.retention.policies import Situation
from benchmarks.retention.streams import LabelledStream
from benchmarks.shared.paired import Floats, Keys
from buffer.reservoir import Reservoir
from learner.config import LearnerConfig
from learner.memory.memory import Draw, Memory
from learner.memory.ranking import Ranking
from learner.networks.encoder import Encoder
from learner.probes.probe import extract
from learner.views.guided import GuidedConfig


class PolicyMemory(Memory):
    """The memory of a run. student: set it before the first pair is offered to the reservoir."""

    student: Encoder

    def __init__(self, config: LearnerConfig, policy: Callable[[Situation], Reservoir], stream: LabelledStream) -> None:
        situation = Situation(config.memory.capacity, config.seed, self._embed, self._priorities)
        super().__init__(config.memory, seed=config.seed, ranking=Ranking(policy(situation)))
        assert isinstance(config.crops, GuidedConfig)  # other presets are refused with the settings
        self._view_size = config.crops.teacher_size
        self._stream = stream
        self._batch = config.pacing.batch_size
        self._replayed = self._replayed_junk = 0

    def __len__(self) -> int:
        """Return the number of pairs that can be drawn.

        A memory smaller than a batch is enough, because a batch may repeat a pair.
        """
        return max(super().__len__(), self._batch) if self.config.capacity < self._batch else super().__len__()

    def draw(self, count: int) -> Draw:
        """Draw as Memory does, and count the replays."""
        draw = super().draw(count)
        self._replayed += len(draw.keys) - draw.fresh
        self._replayed_junk += int(self._stream.junk[draw.keys[draw.fresh :]].sum())
        return draw

    def figures(self) -> dict[str, Any]:
        """Return figures of what the memory kept and replayed; shares are of real pairs and junk together."""
        kept = self.ranking.reservoir.keys()
        place = self._stream.place[kept]
        counts = np.unique(place[place >= 0], return_counts=True)[1]
        places = len(np.unique(self._stream.place[self._stream.place >= 0]))
        share = counts / max(1, counts.sum())
        return {
            "arrived": self.arrived,
            "junk_of_stream": float(self._stream.junk.mean()),
            "junk_replayed": self._replayed_junk / max(1, self._replayed),
            "junk_kept": float(self._stream.junk[kept].mean()),
            "place_entropy": float(-(share * np.log(share)).sum() / np.log(places)) if places > 1 else 1.0,
            "mean_age": float((self.arrived - kept).mean()),
        }

    def _priorities(self, keys: Keys) -> Floats:
        priorities: Floats = self.slots.priority[self.slots.of(keys)]
        return priorities

    def _embed(self, keys: Keys) -> Floats:
        """Return unit features [k, D] of the left images, as the student sees them."""
        if not keys.size:
            return np.zeros((0, self.student.dim))
        size = (self._view_size, self._view_size)
        images = [cv2.resize(self.slots.left[slot].numpy(), size) for slot in self.slots.of(keys).tolist()]
        found = torch.nn.functional.normalize(extract(self.student, np.asarray(images), device="cpu").double(), dim=1)
        features: Floats = found.numpy()
        return features
