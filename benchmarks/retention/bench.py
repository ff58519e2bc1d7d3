"""Does it matter which pairs a learner remembers? Policies of retention on streams that move on, with and without junk.

Every run sees the same real pairs in the same order, takes the same number of gradient steps on batches of one size and
starts from the same weights; only who stays in memory differs, and what junk comes between. Replays are drawn uniformly
from what is kept. The network is small and the memory is turned over many times, so that a run takes half a minute: what is
compared is policies, not what a large network would reach.

Runs are independent of each other and their results are lines of a file: a bench that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console
from torch import Tensor

from benchmarks.retention.figures import plot, tables
from benchmarks.retention.policies import IID, NONE, POLICIES, Floats, Keys, Situation
from benchmarks.retention.streams import STREAMS, Materials, Stretch, stretch
from benchmarks.shared.results import completed
from learner.config import PRESETS, LearnerConfig
from learner.loop import Learner, StepReport, learn
from learner.memory.memory import Draw, Memory
from learner.memory.ranking import Ranking
from learner.networks.encoder import Encoder
from learner.objectives.guided import GuidedConfig
from learner.probes.control_sets import ControlSet
from learner.probes.probe import extract, knn_accuracy, linear_accuracy
from stream.source import IteratorSource


@dataclass(frozen=True, kw_only=True)
class RetentionSettings:
    """Compare policies of retention: one result line a run, then a table with intervals over seeds."""

    streams: tuple[str, ...] = ("classes",)
    """classes: control pictures class after class; walk: the simulated world; drives: real stereo, drive after drive."""
    policies: tuple[str, ...] = tuple(POLICIES)
    """Which to compare; `ours W, H` has loss_weight W and half_life H (in capacities n)."""
    junk: tuple[float, ...] = (0.0, 0.1, 0.3)
    """Shares of the stream that are junk: noise, flat, motion blur, lens cap, over-exposure, frozen frames, equally often."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each decides weights, views, order of places, junk and chance in the policies."""
    pairs: int = 4000
    """Real pairs of a stream, at most."""
    capacity: int = 200
    """Pairs in memory."""
    steps: int = 250
    """Gradient steps of a run, each on 128 samples."""
    preset: str = "cpu"
    """The learner's settings, of which the network is made smaller."""
    control: str = "digits"
    """Labelled set: half of its train half is streamed (`classes`), the other half is the bank of the probe."""
    textures: Path | None = None
    """A folder of photographs for the simulated world; procedural pictures without it."""
    drives: tuple[Path, ...] = ()
    """Folders with left/ and right/, for the stream of that name."""
    results: Path = Path("runs/retention.jsonl")
    """Where result lines are kept; runs that are in it are not run again."""
    report: Path | None = None
    """Write the tables and the plot to this path with .md and .png behind it."""
    jobs: int = 1
    """Runs side by side, one thread each."""
    json: bool = False
    """Result lines on the standard output instead of progress; the table goes to the standard error."""

    def __post_init__(self) -> None:
        for name, given, known in (("streams", self.streams, STREAMS), ("policies", self.policies, tuple(POLICIES))):
            unknown = [word for word in given if word not in known]
            if unknown or not given:
                raise ValueError(f"--{name} must be among: {'; '.join(known)}; got {'; '.join(unknown) or 'nothing'}")
        if self.preset not in PRESETS or not isinstance(PRESETS[self.preset].objective, GuidedConfig):
            raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if not self.seeds or not self.junk or not all(0 <= share < 0.9 for share in self.junk):
            raise ValueError(f"--seeds and --junk must not be empty and junk within [0, 0.9), got {self.junk}")
        if min(self.pairs, self.capacity, self.steps, self.jobs) < 1 or min(self.seeds) < 0:
            raise ValueError("--pairs, --capacity, --steps and --jobs must be at least 1 and --seeds at least 0")


@dataclass(frozen=True)
class Cell:
    """One run. The fields are what a result line is known by."""

    stream: str
    junk: float
    seed: int
    policy: str
    pairs: int
    capacity: int
    steps: int
    control: str
    preset: str


PROBES = 4
"""Probes on the way, the last one at the end; the curve begins with the random start."""


def main(arguments: Sequence[str]) -> int:
    """Run what is missing, then compare all there is."""
    settings = tyro.cli(RetentionSettings, args=list(arguments), prog="python -m benchmarks retention")
    cells = _cells(settings)
    run = partial(run_cell, materials=Materials(settings.control, settings.textures, settings.drives))
    lines = completed(cells, settings.results, run, jobs=settings.jobs, tell=None if settings.json else _told)
    for line in lines if settings.json else ():
        sys.stdout.write(json.dumps(line) + "\n")
    found = tables(lines)
    Console(stderr=settings.json, highlight=False).print(found, markup=False, soft_wrap=True)
    if settings.report is not None:
        settings.report.parent.mkdir(parents=True, exist_ok=True)
        settings.report.with_suffix(".md").write_text(f"{_head(settings)}\n\n{found}\n")
        plot(lines, settings.report.with_suffix(".png"))
    return 0


def _head(settings: RetentionSettings) -> str:
    """What a reader of the tables has to know."""
    return (
        f"# Which pairs should stay?\n\nAt most {settings.pairs} real pairs a stream, {settings.capacity} in memory, "
        f"{settings.steps} steps, preset `{settings.preset}` made smaller, control set {Path(settings.control).name}. "
        "Accuracies of the student in percent; differences are paired by seed, ± their 95 % interval. "
        "`ours W, H` has loss_weight W and a half_life of H, in capacities."
    )


def _cells(settings: RetentionSettings) -> list[Cell]:
    """In an order in which a stream is made once, and whole seeds come first."""
    control = Path(settings.control).name
    size = (settings.pairs, settings.capacity, settings.steps, control, settings.preset)
    grid = itertools.product(settings.streams, settings.seeds, settings.junk, settings.policies)
    return [Cell(stream, junk, seed, policy, *size) for stream, seed, junk, policy in grid]


def run_cell(cell: Cell, materials: Materials) -> dict[str, Any]:
    """One run from its random start to its last step: what its result line has beside the fields of the cell."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    episode = stretch(cell.stream, materials, cell.pairs, cell.junk, cell.seed)
    if cell.policy == IID:
        episode = episode.shuffled(cell.seed)
    config = _config(cell, episode)
    memory = _Watched(config, cell, episode)
    learner = Learner(config, torch.device("cpu"), memory=memory)
    memory.student = learner.objective.encoders()["student"]
    curve = [{"step": 0, "cpu_s": 0.0, **_probe(learner, episode)}]
    cpu_s, due = 0.0, [round(cell.steps * part / PROBES) for part in range(1, PROBES + 1)]
    resumed_s = time.process_time()
    for event in learn(learner, IteratorSource(episode.pairs), clock=time.monotonic):
        if not isinstance(event, StepReport) or learner.steps < due[0]:
            continue
        cpu_s += time.process_time() - resumed_s
        curve.append({"step": learner.steps, "cpu_s": round(cpu_s, 2), **_probe(learner, episode)})
        if learner.steps >= cell.steps:
            break
        del due[0]
        resumed_s = time.process_time()
    return {"curve": curve, **memory.told(learner.steps)}


def _config(cell: Cell, episode: Stretch) -> LearnerConfig:
    """The preset, smaller; pictures of 32 pixels are looked at as a whole."""
    preset = PRESETS[cell.preset]
    objective = dataclasses.replace(_guided(preset), crops=2)
    if cell.stream == "classes":
        objective = dataclasses.replace(objective, attention_size=16, window_sigmas=3.0, smallest_window=1.0)
    batch = preset.pacing.batch_size
    fresh = max(1, round(len(episode.pairs) / cell.steps))
    capacity = {IID: len(episode.pairs), NONE: fresh}.get(cell.policy, cell.capacity)
    return dataclasses.replace(
        preset,
        seed=cell.seed,
        encoder=dataclasses.replace(preset.encoder, embed_dim=64, depth=2, heads=2),
        objective=objective,
        memory=dataclasses.replace(preset.memory, capacity=capacity, canvas=episode.canvas),
        # Half a pair less than there are: the last step must not wait for a rounding error.
        pacing=dataclasses.replace(preset.pacing, replay_ratio=batch * cell.steps / (len(episode.pairs) - 0.5)),
        schedule=dataclasses.replace(preset.schedule, learning_rate=2e-3, warmup_steps=20),
    )


def _guided(config: LearnerConfig) -> GuidedConfig:
    assert isinstance(config.objective, GuidedConfig)  # refused with the settings
    return config.objective


class _Watched(Memory):
    """A memory under a policy, which counts what it replays."""

    student: Encoder
    """Set once the learner is there."""

    def __init__(self, config: LearnerConfig, cell: Cell, episode: Stretch) -> None:
        situation = Situation(config.memory.capacity, config.seed, self._embed, self._priorities)
        super().__init__(config.memory, seed=config.seed, ranking=Ranking(POLICIES[cell.policy](situation)))
        self._episode = episode
        self.replayed = self.replayed_junk = 0
        self._view_size = _guided(config).teacher_size
        self._batch = config.pacing.batch_size

    def __len__(self) -> int:
        """A batch may draw the same pair often: a memory smaller than a batch is not waited for."""
        return max(super().__len__(), self._batch) if self.config.capacity < self._batch else super().__len__()

    def draw(self, count: int) -> Draw:
        """As Memory.draw."""
        draw = super().draw(count)
        self.replayed += len(draw.keys) - draw.fresh
        self.replayed_junk += int(self._episode.junk[draw.keys[draw.fresh :]].sum())
        return draw

    def _priorities(self, keys: Keys) -> Floats:
        priorities: Floats = self.slots.priority[self.slots.of(keys)]
        return priorities

    def _embed(self, keys: Keys) -> Floats:
        """Unit features of the left images as the student sees them."""
        if not keys.size:
            return np.zeros((0, self.student.dim))
        size = (self._view_size, self._view_size)
        images = [cv2.resize(self.slots.left[slot].numpy(), size) for slot in self.slots.of(keys).tolist()]
        found = torch.nn.functional.normalize(extract(self.student, np.asarray(images), device="cpu").double(), dim=1)
        features: Floats = found.numpy()
        return features

    def told(self, steps: int) -> dict[str, Any]:
        """What it held and replayed; shares are of real pairs and junk together."""
        kept = self.ranking.reservoir.keys()
        place = self._episode.place[kept]
        counts = np.unique(place[place >= 0], return_counts=True)[1]
        places = len(np.unique(self._episode.place[self._episode.place >= 0]))
        share = counts / max(1, counts.sum())
        return {
            "arrived": self.arrived,
            "junk_of_stream": float(self._episode.junk.mean()),
            "junk_replayed": self.replayed_junk / max(1, self.replayed),
            "junk_kept": float(self._episode.junk[kept].mean()),
            "place_entropy": float(-(share * np.log(share)).sum() / np.log(places)) if places > 1 else 1.0,
            "mean_age": float((self.arrived - kept).mean()),
        }


def _probe(learner: Learner, episode: Stretch) -> dict[str, float]:
    """Accuracies of the student on each control set, and on what the stream showed first."""
    student = learner.objective.encoders()["student"]
    found: dict[str, float] = {}
    for number, control in enumerate(episode.controls):
        bank, test = (_features(student, images) for images in (control.train_images, control.test_images))
        name = f"{control.name} " if number else ""
        found[f"{name}knn"] = knn_accuracy(bank, control.train_labels, test, control.test_labels)
        found[f"{name}linear"] = linear_accuracy(bank, control.train_labels, test, control.test_labels)
        if not number and episode.first_places:
            found["first_knn"] = _first_knn(control, bank, test, episode.first_places)
    return found


def _features(student: Any, images: Any) -> Tensor:
    return extract(student, images, device="cpu")


def _first_knn(control: ControlSet, bank: Tensor, test: Tensor, first: frozenset[int]) -> float:
    """Accuracy on the test images of the first places, among all places."""
    mine = np.isin(control.test_labels, sorted(first))
    return knn_accuracy(bank, control.train_labels, test[torch.from_numpy(mine)], control.test_labels[mine])


def _told(line: dict[str, Any]) -> str:
    first, last = line["curve"][0], line["curve"][-1]
    return (
        f"{line['stream']} junk {100 * line['junk']:.0f} % seed {line['seed']}  {line['policy']}: k-NN {100 * first['knn']:.1f} "
        f"-> {100 * last['knn']:.1f}  linear {100 * last['linear']:.1f}  {last['cpu_s']:.0f} CPU-s"
    )
