"""Does junk score high, so that a buffer ranked by loss fills with it?

A learner trains on a stream in which every tenth pair is spoiled. At some moments it scores pairs it was never trained on,
real and spoiled, in batches of the same mixture: the AUC is the chance that a spoiled pair scores above a real one (0.5: the
score does not tell, 1: every spoiled one is above every real one). What memory makes of the stream's own junk is followed
beside it: first and later scores, what `Stubbornness` takes away, the shares that are replayed and kept.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Column, Table

from benchmarks.junk.auc import Auc, over_seeds
from benchmarks.junk.run import Finding, plain, run
from benchmarks.junk.streams import Scenes, exam, photographs, walk, with_junk
from benchmarks.shared.spoiled import MISHAPS
from learner.config import PRESETS, LearnerConfig
from learner.objectives.babyagent import BabyAgentConfig

PRESETS_COMPARED = ("cpu", "contrastive")
"""The seed's objective and InfoNCE, in one small network each, without repulsion: their losses are cross-entropies."""
MEMORY_ROWS = {
    "first": "AUC, first score",
    "later": "AUC, 4th score on",
    "damped": "the same, damped",
    "clipped": "first at the clip",
    "weight_unclipped": "weight, unclipped",
    "weight_clipped": "weight, clipped",
    "weight_later": "weight, 4th on",
    "weight_damped": "the same, damped",
    "taken": "phi taken",
    "taken_real": "phi taken of real",
    "kept": "kept by arrived",
    "replayed": "replayed by arrived",
}
"""Titles of what `memory_row` gives."""


@dataclass(frozen=True, kw_only=True)
class JunkSettings:
    """Train on streams with junk and measure whether it scores above real pairs."""

    streams: tuple[Literal["photographs", "walk"], ...] = ("photographs", "walk")
    """Photographs whose right eye is made from the left one, and the simulated walk."""
    control: str = "digits"
    """Whose images are the photographs, as for the learner: digits, or a folder."""
    textures: Path | None = None
    """A folder of photographs to hang into the walk's worlds; procedural pictures without it."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seeds a world, its junk and two learners."""
    moments: tuple[int, ...] = (0, 200, 500)
    """Steps of training after which held-out pairs are scored."""
    share: float = 0.1
    """Of junk among the pairs."""
    batch_size: int = 64
    """Pairs a step: half the presets', for twice the steps in the same time."""
    capacity: int = 512
    """Pairs in the reservoir: small, so that it has to choose."""
    exams: int = 40
    """Held-out batches."""
    json: bool = False
    """One JSON line a learner instead of progress; the tables go to the standard error."""


def main(arguments: Sequence[str]) -> int:
    """Train, score and print both tables; returns 0."""
    settings = tyro.cli(JunkSettings, args=list(arguments), prog="python -m benchmarks junk")
    _check(settings)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    say: Callable[[str], None] = (lambda _text: None) if settings.json else _say
    found: dict[tuple[str, str], list[Finding]] = {}
    for seed in settings.seeds:
        for stream in settings.streams:
            say(f"seed {seed}  {stream}: making the pairs")
            for preset, finding in _seed(settings, stream, seed):
                found.setdefault((stream, preset), []).append(finding)
                say(f"seed {seed}  {stream}  {preset}  {finding.cpu_s:.0f} CPU-s")
                if settings.json:
                    _line({"stream": stream, "preset": preset, "seed": seed, **plain(finding)})
    console = Console(stderr=settings.json, highlight=False)
    for names, findings in found.items():
        title = ", ".join(names)
        console.print(held_out_table(f"{title}: AUC of junk above held-out real pairs", findings))
        console.print(memory_table(f"{title}: what memory makes of the stream's junk", findings))
    return 0


def _check(settings: JunkSettings) -> None:
    rising = all(earlier < later for earlier, later in zip(settings.moments, settings.moments[1:], strict=False))
    rules = {
        "--moments must rise from at least 0 to at least 1": rising
        and bool(settings.moments)
        and settings.moments[0] >= 0 < settings.moments[-1],
        "--share must be above 0 and at most 0.5": 0 < settings.share <= 0.5,
        "--batch-size must be at least 16 and --exams at least 1": settings.batch_size >= 16 and settings.exams >= 1,
        "--seeds and --streams must name at least one": bool(settings.seeds and settings.streams),
    }
    for rule, holds in rules.items():
        if not holds:
            raise ValueError(rule)


def _seed(settings: JunkSettings, stream: str, seed: int) -> Iterator[tuple[str, Finding]]:
    """Both objectives on one stream of this seed, with the same pairs."""
    config = {preset: _config(settings, preset, seed) for preset in PRESETS_COMPARED}
    ratio = config["cpu"].pacing.replay_ratio
    streamed = settings.batch_size + math.ceil(settings.moments[-1] * settings.batch_size / ratio)
    scenes = _scenes(settings, stream, streamed, seed)
    spoil_streamed, spoil_held_out = np.random.default_rng([seed, 1]).spawn(2)
    shown = with_junk(scenes.streamed, settings.share, spoil_streamed)
    asked = exam(scenes.held_out, size=settings.batch_size, share=settings.share, random=spoil_held_out)
    for preset, learner in config.items():
        memory = dataclasses.replace(learner.memory, canvas=scenes.size)
        yield preset, run(dataclasses.replace(learner, memory=memory), shown, asked, settings.moments)


def _config(settings: JunkSettings, preset: str, seed: int) -> LearnerConfig:
    config = PRESETS[preset]
    objective = config.objective
    if isinstance(objective, BabyAgentConfig):
        objective = dataclasses.replace(objective, repulsion=0.0)
    return dataclasses.replace(
        config,
        seed=seed,
        objective=objective,
        pacing=dataclasses.replace(config.pacing, batch_size=settings.batch_size),
        memory=dataclasses.replace(config.memory, capacity=settings.capacity),
    )


def _scenes(settings: JunkSettings, stream: str, streamed: int, seed: int) -> Scenes:
    held_out = settings.exams * settings.batch_size
    if stream == "photographs":
        return photographs(settings.control, streamed, held_out, seed)
    return walk(settings.textures, streamed, held_out, seed)


def held_out_table(title: str, findings: Sequence[Finding]) -> Table:
    """Rows: mishaps; columns: score at moment; mean over seeds and two standard errors."""
    moments = list(findings[0].held_out)
    columns = [(score, moment) for score in ("kl", "ce") for moment in moments]
    table = Table("junk", *(f"{score} {moment}" for score, moment in columns), title=title)
    for mishap in MISHAPS:
        cells = []
        for score, moment in columns:
            aucs: list[Auc] = [finding.held_out[moment][mishap][score] for finding in findings]
            mean, reach = over_seeds(aucs)
            cells.append(f"{mean:.2f} ± {reach:.2f}")
        table.add_row(mishap, *cells)
    return table


def memory_table(title: str, findings: Sequence[Finding]) -> Table:
    """Rows: what `memory_row` gives, means over seeds; columns: mishaps and all junk."""
    kinds = list(findings[0].memory)
    table = Table(Column(no_wrap=True), *(kind.replace("_", " ") for kind in kinds), title=title)
    for name, row in MEMORY_ROWS.items():
        means = [np.mean([finding.memory[kind][name] for finding in findings]) for kind in kinds]
        table.add_row(row, *(f"{mean:.2f}" for mean in means))
    return table


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
    sys.stdout.flush()


def _line(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()
