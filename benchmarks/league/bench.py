"""What does each objective learn from the same walk in the same time? All of them at the size of preset `cpu`, none tuned.

A run is one of `python -m benchmarks learning`: from a random start, on the simulated walk of its seed, until its budget of CPU
time is spent; probed before and after. Each objective has its own views and numbers. Runs are independent of each other, and each
is a line of a file, so a stopped bench continues.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

import torch

from benchmarks.league.figures import plot, tables
from benchmarks.learning import WalkSettings, trained
from benchmarks.shared.bench import Bench
from benchmarks.shared.bounds import Count, Names, Positive
from benchmarks.shared.pairs import WalkOnce
from benchmarks.shared.recipes import changed
from benchmarks.shared.results import Result, Seeds, completed, fingerprint, rendered
from device.sim.camera import SimConfig
from learner.config import LearnerConfig, preset
from learner.footprint import kept_bytes
from learner.objectives.foreign import objective_named
from learner.objectives.table import OBJECTIVES
from learner.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class LeagueSettings(WalkSettings):
    """Train every objective on the same walk in the same time: a line for each run, a table, best first, and a plot."""

    objectives: Annotated[tuple[str, ...], Names()] = tuple(OBJECTIVES)
    """Objectives, each with its own views; also package.module:Class of yours."""
    seeds: Seeds = (1,)
    """Seeds of world, walk, weights and views. From two on there are intervals."""
    cpu_min: Positive = 4.0
    """Budget of a run: minutes of the learner's CPU time."""
    batch_size: Count | None = None
    """Pairs in a step; by default those of the preset."""
    results: Path = Path("runs/league.jsonl")
    """The file of result lines; runs that are in it are not repeated."""
    report: Path | None = None
    """Write the table and the plot to this path, with .md and .png added."""


@dataclass(frozen=True)
class LeagueRun:
    """One run. Its result line is found by these fields; `settings` is a fingerprint of all that decide the weights."""

    objective: str
    seed: int
    cpu_min: float
    control: str
    per_place: int
    textures: str
    settings: str


def measure(settings: LeagueSettings) -> list[Result]:
    """Return the result lines of all runs, after doing the runs that are missing in the file."""
    runs = {}
    told = settings.cpu_min, " ".join(settings.control), settings.per_place, settings.textures_named
    # In this order a walk is made once for each seed.
    for seed, objective in itertools.product(settings.seeds, settings.objectives):
        own = {"seed": seed, "pacing.batch_size": settings.batch_size}
        config = changed(preset("cpu", objective_named(objective)), own)
        runs[LeagueRun(objective, seed, *told, fingerprint(config))] = config
    run = partial(run_one, settings=settings, configs=runs)
    return completed(list(runs), settings.results, run, jobs=settings.jobs, describe=_describe, later=("textures",))


def render(settings: LeagueSettings, lines: Sequence[Result]) -> list[str]:
    """Return the table, and write it to the report too, with the plot."""
    return rendered(settings.report, "# The league of objectives", tables(lines), partial(plot, lines))


COMMAND = Bench(LeagueSettings, measure, render, json_lines=list)


def run_one(run: LeagueRun, settings: LeagueSettings, configs: Mapping[LeagueRun, LearnerConfig]) -> Result:
    """Train one run until its budget is spent; return what its result line has beside the fields of the run."""
    config = configs[run]
    world = SimConfig(seed=run.seed, textures=settings.textures, reward=True)  # for the objectives that need one
    found = trained(config, world, _walk(world), settings, f"seed {run.seed}  {run.objective}")
    batch = config.pacing.batch_size
    kept = kept_bytes(Trainer(config, torch.device("cpu")), batch)
    return found | {"samples_per_s": round(found["steps"] * batch / found["cpu_s"], 1), "step_mb": round(kept / 1e6, 1)}


@lru_cache(maxsize=1)
def _walk(world: SimConfig) -> WalkOnce:
    return WalkOnce(world)


def _describe(line: Result) -> str:
    gains = (f"{name} {100 * (value - line['before'][name]):+.1f}" for name, value in line["after"].items())
    return f"seed {line['seed']}  {line['objective']}, {line['steps']} steps: {'  '.join(gains)}"
