"""Does it matter which pairs a learner remembers? Policies of retention on streams that never return, with and without junk.

Every run sees the same real pairs in the same order, takes the same number of gradient steps on batches of one size and
starts from the same weights. Only the pairs that stay in memory differ, and the junk in the stream. Replays are drawn uniformly
from the kept pairs. The network is small and the memory is replaced many times, so that a run takes half a minute: policies
are compared, not the accuracy that a large network would reach.

Runs are independent of each other, and each is a line of a file, so a stopped bench continues.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from benchmarks.retention.figures import plot, tables
from benchmarks.retention.memory import PolicyMemory
from benchmarks.retention.policies import IID, NONE, POLICIES
from benchmarks.retention.streams import STREAMS, LabelledStream, Materials, labelled_stream
from benchmarks.shared.bench import Bench
from benchmarks.shared.bounds import Count, SomeOf, Within
from benchmarks.shared.probing import accuracies, curve, evenly, features_of, student_of, use_one_thread
from benchmarks.shared.recipes import PRESETS, SMALL_NETWORK, GuidedPreset, changed, spent_over
from benchmarks.shared.results import GridSettings, Result, Seeds, completed, fingerprint, rendered
from learner.config import LearnerConfig
from learner.loop import Learner
from learner.probes.probe import knn_accuracy

PROBE_COUNT = 4
"""Number of probes after the random start; the last one is at the end of the run."""


@dataclass(frozen=True, kw_only=True)
class RetentionSettings(GridSettings):
    """Compare policies of retention: one result line for each run, then a table with intervals over seeds."""

    streams: Annotated[tuple[str, ...], SomeOf(STREAMS)] = ("classes",)
    """classes: control pictures class after class; walk: the simulated world; drives: real stereo, drive after drive."""
    policies: Annotated[tuple[str, ...], SomeOf(POLICIES)] = tuple(POLICIES)
    """The policies to compare; `ours W, H` has loss_weight W and a half_life of H capacities."""
    junk: Annotated[tuple[float, ...], Within(0, 0.9)] = (0.0, 0.1, 0.3)
    """Shares of the stream that are junk: noise, flat, motion blur, lens cap, over-exposure, frozen frames, equally often."""
    seeds: Seeds = (0, 1, 2, 3, 4)
    """Seeds of weights, views, order of places, junk, and chance in the policies."""
    pairs: Count = 4000
    """Largest number of real pairs in a stream."""
    capacity: Count = 200
    """Pairs in memory."""
    steps: Count = 250
    """Gradient steps of a run, each on 128 samples."""
    preset: GuidedPreset = "ntxent"
    """The learner's settings, with a smaller network."""
    control: str = "digits"
    """Labelled set: half of its train half is streamed (`classes`), the other half is the bank of the probe."""
    drives: tuple[Path, ...] = ()
    """Folders with left/ and right/, for the stream `drives`."""
    results: Path = Path("runs/retention.jsonl")
    """The file of result lines; runs that are in it are not repeated."""
    report: Path | None = None
    """Write the tables and the plot to this path, with .md and .png added."""


@dataclass(frozen=True)
class PolicyRun:
    """One run: a policy on a stream. Its result line is found by these fields."""

    stream: str
    junk: float
    seed: int
    policy: str
    pairs: int
    capacity: int
    steps: int
    control: str
    preset: str
    textures: str
    drives: str
    settings: str
    """Fingerprint of the preset with the smaller network."""


def measure(settings: RetentionSettings) -> list[Result]:
    """Return the result lines of all runs, after doing the runs that are missing in the file."""
    size = (settings.pairs, settings.capacity, settings.steps, settings.control, settings.preset)
    network = fingerprint(changed(PRESETS[settings.preset], SMALL_NETWORK))
    told = (*size, settings.textures_named, " ".join(map(str, settings.drives)), network)
    # In this order a stream is made only once, and whole seeds are complete early.
    grid = itertools.product(settings.streams, settings.seeds, settings.junk, settings.policies)
    runs = [PolicyRun(stream, junk, seed, policy, *told) for stream, seed, junk, policy in grid]
    run = partial(run_policy, materials=Materials(settings.control, settings.textures, settings.drives))
    return completed(runs, settings.results, run, jobs=settings.jobs, describe=_describe)


def render(settings: RetentionSettings, lines: Sequence[Result]) -> list[str]:
    """Return the tables, and write them to the report too, with the plot."""
    return rendered(settings.report, _introduction(settings), tables(lines), partial(plot, lines))


COMMAND = Bench(RetentionSettings, measure, render, json_lines=list)


def _introduction(settings: RetentionSettings) -> str:
    """Return the introduction that a reader of the tables needs."""
    return (
        f"# Which pairs should stay?\n\nAt most {settings.pairs} real pairs a stream, {settings.capacity} in memory, "
        f"{settings.steps} steps, preset `{settings.preset}` with a smaller network, control set {Path(settings.control).name}. "
        "Accuracies of the student in percent; differences are paired by seed, ± their 95 % interval. "
        "`ours W, H` has loss_weight W and a half_life of H, in capacities."
    )


def run_policy(run: PolicyRun, materials: Materials) -> Result:
    """Train one run from its random start to its last step; return what its result line has beside the fields of the run."""
    use_one_thread()
    stream = labelled_stream(run.stream, materials, run.pairs, run.junk, run.seed)
    if run.policy == IID:
        stream = stream.shuffled(run.seed)
    config = _config(run, stream)
    memory = PolicyMemory(config, POLICIES[run.policy], stream)
    learner = Learner(config, torch.device("cpu"), memory=memory)
    memory.student = student_of(learner)
    marks = evenly(run.steps, PROBE_COUNT)
    return {"curve": curve(learner, stream.pairs, marks, lambda: _probe(learner, stream)), **memory.figures()}


def _config(run: PolicyRun, stream: LabelledStream) -> LearnerConfig:
    """Return the preset with a smaller network; images of 32 pixels are viewed as a whole."""
    preset, count = PRESETS[run.preset], len(stream.pairs)
    whole = {"attention_size": 16, "window_sigmas": 3.0, "smallest_window": 1.0} if run.stream == "classes" else {}
    fresh = max(1, round(count / run.steps))
    settings = {
        **SMALL_NETWORK,
        **{f"crops.{name}": value for name, value in whole.items()},
        "memory.capacity": {IID: count, NONE: fresh}.get(run.policy, run.capacity),
        "memory.canvas": stream.canvas,
        "schedule.learning_rate": 2e-3,
        "schedule.warmup_steps": 20,
    }
    return changed(spent_over(replace(preset, seed=run.seed), run.steps, count), settings)


def _probe(learner: Learner, stream: LabelledStream) -> dict[str, float]:
    """Return the accuracies of the student on each control set, and on the places that the stream showed first.

    For the latter, all places are possible answers.
    """
    found: dict[str, float] = {}
    for control in stream.controls:
        bank, test = features_of(student_of(learner), control)
        name = f"{control.name} " if found else ""
        if not found and stream.first_places:
            first = np.isin(control.test_labels, sorted(stream.first_places))
            seen = test[torch.from_numpy(first)], control.test_labels[first]
            found["first_knn"] = knn_accuracy(bank, control.train_labels, *seen)
        found |= {f"{name}{probe}": value for probe, value in accuracies(control, bank, test).items()}
    return found


def _describe(line: dict[str, Any]) -> str:
    first, last = line["curve"][0], line["curve"][-1]
    run = f"{line['stream']} junk {100 * line['junk']:.0f} % seed {line['seed']}  {line['policy']}"
    knn = f"k-NN {100 * first['knn']:.1f} -> {100 * last['knn']:.1f}"
    return f"{run}: {knn}  linear {100 * last['linear']:.1f}  {last['cpu_s']:.0f} CPU-s"
