"""What does a stream do to each family of objectives, and what cures it? Batches of one walk in several orders.

Every run takes the same number of steps on batches of one size, and begins at the start that its seed gives. A window that slides
over all frames is the strict stream: it is never shuffled, and nothing comes back. The same over the pairs that the rig keeps
shows what dedupe is worth, the reservoir what memory is worth, and the shuffled pairs are what a data set would be. `blocks` and
`comb` change how alike frames are within a batch and between batches, each alone (the question of arXiv 2609.40333).

Runs are independent of each other, and each is a line of a file, so a stopped bench continues.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from benchmarks.shared.bench import Bench, Goal
from benchmarks.shared.bounds import Count, Names, SomeOf
from benchmarks.shared.paired import Keys
from benchmarks.shared.probing import accuracies_on, control_set, places_of, train_to, use_one_thread
from benchmarks.shared.recipes import changed, spent_over
from benchmarks.shared.results import GridSettings, Result, completed, fingerprint, rendered
from benchmarks.streams.figures import grouped, plot, shares, tables
from benchmarks.streams.memory import NotingMemory, OrderedMemory
from benchmarks.streams.orders import Order, blocks, comb, likeness, shuffled, window
from benchmarks.streams.walk import Walk, recorded
from device.sim.camera import SimConfig
from learner.config import LearnerConfig, preset
from learner.errors import SettingsError
from learner.loop import Learner
from learner.objectives.foreign import objective_named

RESERVOIR, IID = "reservoir", "shuffled"
WALK_SIZE = (120, 160)
"""Height and width of a frame, pixels: those of the canvas of preset `cpu`."""
CAPACITY_SHARE = 0.25
"""Capacity of the reservoir, as a share of the pairs of the stream."""
LEAST_SHARE = 0.95
"""The goal: what the reservoir reaches of the gain with shuffled pairs."""


@dataclass(frozen=True)
class Stream:
    """What batches are made of. order: None lets the learner's own memory decide."""

    order: Order | None
    is_deduped: bool


STREAMS: Mapping[str, Stream] = {
    "window": Stream(window, is_deduped=False),
    "window, deduped": Stream(window, is_deduped=True),
    RESERVOIR: Stream(None, is_deduped=True),
    IID: Stream(shuffled, is_deduped=True),
    "blocks": Stream(blocks, is_deduped=False),
    "comb": Stream(comb, is_deduped=False),
    "shuffled frames": Stream(shuffled, is_deduped=False),
}


@dataclass(frozen=True, kw_only=True)
class StreamsSettings(GridSettings):
    """Train families of objectives on a walk in several orders: a line for each run, a table with intervals, a plot."""

    objectives: Annotated[tuple[str, ...], Names()] = ("ntxent", "babyagent", "lejepa", "mae")
    """Objectives at the size of preset `cpu`, each with its own views; also package.module:Class of yours."""
    streams: Annotated[tuple[str, ...], SomeOf(STREAMS)] = tuple(STREAMS)[:4]
    """How batches are made. The further ones, over all frames: blocks, alike within a batch only; comb, alike between batches
    only; shuffled frames, neither."""
    control: tuple[str, ...] = ("digits",)
    """Control sets in addition to the places, given as for the learner."""
    control_limit: Count | None = None
    """Largest number of images in each half of a control set."""
    per_place: Count = 60
    """Labelled views of each place, in each half of its control set."""
    pairs: Count = 2000
    """Pairs that the rig keeps of the walk."""
    steps: Count = 250
    """Training steps of a run."""
    batch_size: Count | None = None
    """Pairs in a step; by default those of the preset."""
    results: Path = Path("runs/streams.jsonl")
    """The file of result lines; runs that are in it are not repeated."""
    report: Path | None = None
    """Write the tables and the plot to this path, with .md and .png added."""


@dataclass(frozen=True)
class StreamsRun:
    """One run. Its result line is found by these fields; `settings` is a fingerprint of all that decide the weights."""

    objective: str
    stream: str
    seed: int
    pairs: int
    steps: int
    control: str
    per_place: int
    textures: str
    settings: str


def measure(settings: StreamsSettings) -> list[Result]:
    """Return the result lines of all runs, after doing the runs that are missing in the file."""
    runs = {}
    sets = " ".join([*settings.control, *([] if settings.control_limit is None else [str(settings.control_limit)])])
    told = settings.pairs, settings.steps, sets, settings.per_place, settings.textures_named
    # In this order a walk is recorded once for each seed, and whole seeds are complete early.
    for seed, objective, stream in itertools.product(settings.seeds, settings.objectives, settings.streams):
        config = _config(settings, objective, seed)
        runs[StreamsRun(objective, stream, seed, *told, fingerprint(config))] = config
    run = partial(run_one, settings=settings, configs=runs)
    later = ("per_place", "textures")
    return completed(list(runs), settings.results, run, jobs=settings.jobs, describe=_describe, later=later)


def render(settings: StreamsSettings, lines: Sequence[Result]) -> list[str]:
    """Return the tables, and write them to the report too, with the plot."""
    return rendered(settings.report, "# What a stream does to each objective", tables(lines, IID), partial(plot, lines))


def goals(lines: Sequence[Result]) -> Iterator[Goal]:
    """Yield the goal of each objective: with the reservoir it gains as much as with shuffled pairs.

    One that gains too little with those to take a share of has not reached it: the share is nan.
    """
    found = shares(lines, RESERVOIR, IID)
    for objective, runs in grouped(lines).items():
        if {RESERVOIR, IID} <= {*runs.names}:
            share = found[objective].mean if objective in found else float("nan")
            yield Goal(
                f"{objective}: gain with the reservoir, of that with shuffled pairs", share, LEAST_SHARE, at_least=True
            )


COMMAND = Bench(StreamsSettings, measure, render, goals, json_lines=list)


def run_one(run: StreamsRun, settings: StreamsSettings, configs: Mapping[StreamsRun, LearnerConfig]) -> Result:
    """Train one run from its random start to its last step; return what its result line has beside the fields of the run."""
    use_one_thread()
    config, stream = configs[run], STREAMS[run.stream]
    world = SimConfig(size=WALK_SIZE, seed=run.seed, textures=settings.textures)
    walk = recorded(world, settings.pairs)
    numbers = walk.kept if stream.is_deduped else np.arange(len(walk.frames))
    memory = _memory(config, walk, numbers, stream.order, run)
    learner = Learner(config, torch.device("cpu"), memory=memory)
    controls = [places_of(replace(world, size=SimConfig.size), per_place=settings.per_place)]
    limit = settings.control_limit
    controls += [control_set(word, config.crops.probe_size, limit, limit) for word in settings.control]
    start = accuracies_on(learner, controls)
    pairs = [walk.frames[number] for number in numbers]
    (cpu_s,) = train_to(learner, pairs, [run.steps])
    alike = likeness(walk.looks, numbers[np.stack(memory.given)])
    return {
        "before": start,
        "after": accuracies_on(learner, controls),
        **{name: round(value, 4) for name, value in alike._asdict().items()},
        "frames": len(walk.frames),
        "cpu_s": round(cpu_s, 2),
    }


def _config(settings: StreamsSettings, objective: str, seed: int) -> LearnerConfig:
    """Return the preset, with a memory that is smaller than the stream, whose pairs pay for the steps.

    Raises SettingsError for an objective that an order of single pairs would rob of what it learns from.
    """
    config = changed(
        preset("cpu", objective_named(objective)), {"pacing.batch_size": settings.batch_size, "seed": seed}
    )
    if config.memory.clip > 1 or config.objective.signals:
        raise SettingsError(
            f"--objectives {objective}: it learns from clips or signals, and the orders are of single pairs: leave it out"
        )
    capacity = max(config.pacing.batch_size, round(CAPACITY_SHARE * settings.pairs))
    return changed(spent_over(config, settings.steps, settings.pairs), {"memory.capacity": capacity})


def _memory(config: LearnerConfig, walk: Walk, numbers: Keys, order: Order | None, run: StreamsRun) -> NotingMemory:
    if order is None:
        return NotingMemory(config)
    pairs = [walk.frames[number] for number in numbers]
    return OrderedMemory(config, pairs, order(len(pairs), run.steps, config.pacing.batch_size, run.seed))


def _describe(line: Result) -> str:
    gains = (f"{name} {100 * (value - line['before'][name]):+.1f}" for name, value in line["after"].items())
    likenesses = f"alike {line['within']:.2f} within, {line['between']:.2f} between"
    return f"seed {line['seed']}  {line['objective']}, {line['stream']}: {'  '.join(gains)}  ({likenesses})"
