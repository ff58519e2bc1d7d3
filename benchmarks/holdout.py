"""Does the stream's own probe foretell how well places are told apart? Rank correlations over objectives, seeds and steps.

Each run trains one objective on the simulated walk of its seed, at the size of preset `cpu`, and holds out a share of the pairs.
At several steps the student is probed twice: on the held-out pairs, without labels, and on the places of that world as two other
walks see them. Steps, not seconds, end a run, so that it can be repeated.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.shared import probing
from benchmarks.shared.bench import Bench, figure_table, report_progress, time_left
from benchmarks.shared.bounds import Count
from benchmarks.shared.pairs import walk_pairs
from benchmarks.shared.results import GridSettings, Result, Seeds, in_processes
from device.sim.camera import SimConfig
from learner.config import preset
from learner.loop import Learner
from learner.objectives.foreign import objective_named
from learner.runs.start import START_WEIGHTS
from learner.runs.titles import KINDS
from learner.service.stream_probe import StreamProbe
from learner.weights.export import write_weights

PLACES = ("places knn", "places linear")
INFORMATION = "student_information"


@dataclass(frozen=True, kw_only=True)
class HoldoutSettings(GridSettings):
    """Train objectives on simulated walks, and correlate the stream's probe with the accuracy on places."""

    objectives: tuple[str, ...] = ("babyagent", "contrastive", "ntxent", "vicreg")
    """Objectives, each with its own views and numbers."""
    seeds: Seeds = (1, 2)
    """Seeds of world, walk and weights."""
    steps: Count = 400
    """Steps of a run."""
    probes: Count = 4
    """Probes of a run, each behind as many steps."""
    share: float = 0.1
    """Share of the pairs that is held out."""
    per_place: Count = 60
    """Labelled views of each place, in each half of its control set."""


def measure(settings: HoldoutSettings) -> list[Result]:
    """Return a line for each probe of each run."""
    runs = list(itertools.product(settings.seeds, settings.objectives))
    started_s, found = time.monotonic(), dict[tuple[int, str], list[Result]]()
    for run, lines in in_processes(partial(probed, settings=settings), runs, settings.jobs):
        found[run] = lines
        report_progress(f"{len(found)}/{len(runs)} runs{time_left(started_s, len(found), len(runs))}")
    return [line for run in runs for line in found[run]]


def render(settings: HoldoutSettings, lines: Sequence[Result]) -> list[Table]:
    """Return the rank correlations of all probes, and of the gains over the start."""
    title = f"rank correlation over {len(lines)} probes of {len(settings.objectives)} objectives, {len(settings.seeds)} seeds"
    rows = {
        name: [f"{value:+.2f}" if np.isfinite(value) else "-" for value in values]
        for name, values in correlations(lines).items()
    }
    return [figure_table(title, ("gauge", "places, k-NN", "places, linear"), rows)]


COMMAND = Bench(HoldoutSettings, measure, render, json_lines=list)


def correlations(lines: Sequence[Result]) -> dict[str, list[float]]:
    """Return Spearman's rank correlation of each gauge with the accuracies on places; nan with fewer than three numbers."""
    found = {}
    for gauge in (*KINDS, *(f"{kind} above the start" for kind in KINDS), INFORMATION):
        both = [[(line[gauge], line[place]) for line in lines if line.get(gauge) is not None] for place in PLACES]
        found[gauge] = [_spearman(pairs) for pairs in both]
    return found


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    columns = list(zip(*pairs, strict=True))
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in columns):
        return float("nan")
    return float(spearmanr(*columns).statistic)


def probed(run: tuple[int, str], settings: HoldoutSettings) -> list[Result]:
    """Train one objective on the walk of one seed; return a line for each probe."""
    seed, objective = run
    probing.use_one_thread()
    config = replace(preset("cpu", objective_named(objective)), seed=seed, holdout=settings.share)
    world = SimConfig(seed=seed, textures=settings.textures)
    learner, gauges = Learner(config, torch.device("cpu")), dict[str, float]()
    student, places = probing.student_of(learner), probing.places_of(world, per_place=settings.per_place)
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / START_WEIGHTS
        write_weights(start, student.backbone.state_dict())
        stream = StreamProbe(learner=learner, start=start)
        lines = []
        steps = probing.evenly(settings.steps, settings.probes)
        for _ in probing.train_to(learner, walk_pairs(world), steps, lambda report: gauges.update(report.gauges)):
            found = stream.measure(student) | probing.accuracies_on(learner, [places])
            above = {
                f"{kind} above the start": found[kind] - found[f"{kind}_start"]
                for kind in KINDS
                if found[kind] is not None
            }
            known = {INFORMATION: gauges[INFORMATION]} if INFORMATION in gauges else {}
            lines.append({"seed": seed, "objective": objective, "step": learner.steps} | found | above | known)
            told = "  ".join(f"{kind} {100 * found[kind]:.1f} %" for kind in KINDS if found[kind] is not None)
            report_progress(f"seed {seed}  {objective}  step {learner.steps}  {told}")
    return lines
