"""Does junk get a high score, so that a buffer ranked by loss fills with it?

A learner trains on a stream in which every tenth pair is spoiled. At some steps it scores pairs that it was never trained on,
real and spoiled, in batches of the same mixture. The AUC is the chance that a spoiled pair scores above a real one (0.5: the
score does not distinguish them; 1: every spoiled pair is above every real one). The junk of the stream is followed through the
memory as well: first and later scores, what `Stubbornness` takes away, the shares that are replayed and kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Annotated

import numpy as np
from rich.table import Table

from benchmarks.junk.auc import over_seeds
from benchmarks.junk.run import JunkFigures, train_and_score
from benchmarks.junk.streams import held_out_batches, photographs, walk, with_junk
from benchmarks.shared.bench import Bench, figure_table, report_progress
from benchmarks.shared.bounds import Count, SomeOf, Within
from benchmarks.shared.probing import use_one_thread
from benchmarks.shared.recipes import PRESETS, changed
from benchmarks.shared.results import GridSettings, Result, in_processes
from benchmarks.shared.spoiled import MISHAPS
from learner.config import LearnerConfig
from learner.errors import SettingsError
from learner.objectives.babyagent import BabyAgentConfig

PRESETS_COMPARED = ("ntxent", "babyagent")
"""The original experiment's objective and InfoNCE, each with a small network and without repulsion: both minimise
cross-entropies."""
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
"""Titles of the figures of `memory_row`."""


@dataclass(frozen=True, kw_only=True)
class JunkSettings(GridSettings):
    """Train on streams with junk, and measure whether junk scores above real pairs."""

    streams: Annotated[tuple[str, ...], SomeOf(("photographs", "walk"))] = ("photographs", "walk")
    """`photographs`, whose right eye is made from the left one, and `walk`, the simulated walk."""
    control: str = "digits"
    """The control set whose images are the photographs: digits, or a folder."""
    moments: Annotated[tuple[int, ...], Within(0)] = (0, 200, 500)
    """Steps of training after which held-out pairs are scored."""
    share: Annotated[float, Within(0, 0.5, above=True)] = 0.1
    """Share of junk among the pairs."""
    batch_size: Annotated[int, Within(16)] = 64
    """Pairs a step: half of the presets', for twice the steps in the same time."""
    capacity: Count = 512
    """Pairs in the reservoir: few, so that it has to choose."""
    exams: Count = 40
    """Number of held-out batches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moments[-1] < 1 or any(earlier >= later for earlier, later in pairwise(self.moments)):
            raise SettingsError("--moments must rise, and the last one be at least 1")


@dataclass(frozen=True)
class JunkRun:
    """One learner: its stream, objective and seed, and its figures."""

    stream: str
    preset: str
    seed: int
    figures: JunkFigures


def measure(settings: JunkSettings) -> list[JunkRun]:
    """Train a learner with each objective on each stream of each seed; return the runs."""
    streams = [(seed, stream) for seed in settings.seeds for stream in settings.streams]
    found = dict(in_processes(partial(_runs, settings=settings), streams, settings.jobs))
    return [run for each in streams for run in found[each]]


def render(_settings: JunkSettings, runs: Sequence[JunkRun]) -> Iterator[Table]:
    """Yield two tables for each stream and objective."""
    names = attrgetter("stream", "preset")
    for key, same in groupby(sorted(runs, key=names), names):
        title, found = ", ".join(key), [run.figures for run in same]
        yield held_out_table(f"{title}: AUC of junk above held-out real pairs", found)
        yield memory_table(f"{title}: the stream's junk in memory", found)


def json_lines(runs: Sequence[JunkRun]) -> Iterator[Result]:
    """Yield a JSON value for each learner."""
    for run in runs:
        yield {"stream": run.stream, "preset": run.preset, "seed": run.seed, **run.figures.plain()}


COMMAND = Bench(JunkSettings, measure, render, json_lines=json_lines)


def _runs(seed_and_stream: tuple[int, str], settings: JunkSettings) -> list[JunkRun]:
    """Train a learner with each objective on one stream of this seed, with the same pairs; return the runs."""
    use_one_thread()
    seed, stream = seed_and_stream
    report_progress(f"seed {seed}  {stream}: making the pairs")
    ratio = PRESETS[PRESETS_COMPARED[0]].pacing.replay_ratio
    streamed = settings.batch_size + math.ceil(settings.moments[-1] * settings.batch_size / ratio)
    make = partial(photographs, settings.control) if stream == "photographs" else partial(walk, settings.textures)
    scenes = make(streamed, settings.exams * settings.batch_size, seed)
    spoil_streamed, spoil_held_out = np.random.default_rng([seed, 1]).spawn(2)
    pairs = with_junk(scenes.streamed, settings.share, spoil_streamed)
    held_out = held_out_batches(scenes.held_out, size=settings.batch_size, share=settings.share, random=spoil_held_out)
    runs = []
    for preset in PRESETS_COMPARED:
        config = changed(_config(settings, preset), {"seed": seed, "memory.canvas": scenes.size})
        runs.append(JunkRun(stream, preset, seed, train_and_score(config, pairs, held_out, settings.moments)))
        report_progress(f"seed {seed}  {stream}  {preset}  {runs[-1].figures.cpu_s:.0f} CPU-s")
    return runs


def _config(settings: JunkSettings, preset: str) -> LearnerConfig:
    config = PRESETS[preset]
    if isinstance(config.objective, BabyAgentConfig):
        config = replace(config, objective=replace(config.objective, repulsion=0.0))
    return changed(config, {"pacing.batch_size": settings.batch_size, "memory.capacity": settings.capacity})


def held_out_table(title: str, found: Sequence[JunkFigures]) -> Table:
    """Return a table with a row for each mishap and a column for each score at each moment.

    A cell is the mean AUC over the seeds, and two standard errors.
    """
    columns = [(score, moment) for score in ("kl", "ce") for moment in found[0].held_out]
    rows: dict[str, list[str]] = {}
    for mishap in MISHAPS:
        aucs = ([one.held_out[moment][mishap][score] for one in found] for score, moment in columns)
        rows[mishap] = ["{:.2f} ± {:.2f}".format(*over_seeds(seeds)) for seeds in aucs]
    return figure_table(title, ("junk", *(f"{score} {moment}" for score, moment in columns)), rows)


def memory_table(title: str, found: Sequence[JunkFigures]) -> Table:
    """Return a table with a row for each figure of `memory_row`, and a column for each mishap and for all junk.

    A cell is the mean over the seeds.
    """
    kinds = list(found[0].memory)
    rows = {
        row: [f"{np.mean([one.memory[kind][name] for one in found]):.2f}" for kind in kinds]
        for name, row in MEMORY_ROWS.items()
    }
    return figure_table(title, ("", *(kind.replace("_", " ") for kind in kinds)), rows)
