"""Which objective and which memory policy suits a recording of one's own? Trains each over several seeds and probes it.

Every run sees the same pairs in the same order, and takes the same number of steps: the recording's pairs pay for them, however
many they are. Runs of one seed share the start of the weights as far as the objectives do. Each run is a line of a file, so a
stopped bench goes on, and more objectives, policies or seeds reuse the runs that are there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import torch

from benchmarks.compare.figures import plot, tables
from benchmarks.shared.bench import Bench, BenchSettings, report_progress
from benchmarks.shared.bounds import Count, SomeOf
from benchmarks.shared.probing import accuracies_on, control_set, curve, evenly, use_one_thread
from benchmarks.shared.recipes import changed, spent_over
from benchmarks.shared.results import Result, Seeds, completed, fingerprint, rendered
from learner.config import SIZES, LearnerConfig, preset
from learner.errors import Failed, SettingsError
from learner.loop import Learner
from learner.memory.config import PolicyName
from learner.objectives.foreign import objective_named
from stream.errors import EndOfStream
from stream.pair import EncodedPair
from stream.recording.source import RecordingSource

RECEIVE_PAIRS = 64


@dataclass(frozen=True, kw_only=True)
class CompareSettings(BenchSettings):
    """Compare objectives and memory policies on a recording: a line for each run, a table with intervals over seeds, a plot."""

    recording: tuple[Path, ...]
    """The recordings to learn from, one after the other."""
    control: tuple[str, ...] = ("digits",)
    """Labelled sets to probe on, as for the learner: digits, or NAME=FOLDER with a folder for each class."""
    control_limit: Count | None = None
    """Largest number of images in each half of a labelled set."""
    objectives: tuple[str, ...] = ("ntxent",)
    """Objectives, also package.module:Class of yours."""
    policies: Annotated[tuple[str, ...], SomeOf(get_args(PolicyName))] = ("loss",)
    """Memory policies (docs/reservoir.md)."""
    seeds: Seeds = (0, 1, 2)
    """Seeds of weights, views and reservoir. Fewer than three give no interval worth the name."""
    steps: Count = 300
    """Training steps of each run."""
    probes: Count = 4
    """Probes after the random start; the last one is at the end."""
    preset: Annotated[str, SomeOf(SIZES)] = "cpu"
    """The size of the network and its settings."""
    batch_size: Count | None = None
    """Samples of a step; by default those of the preset."""
    capacity: Count | None = None
    """Pairs in memory; by default those of the preset. Policies differ little while the memory holds the whole recording."""
    jobs: Count = 1
    """Number of runs at the same time, each with one thread."""
    results: Path = Path("runs/compare.jsonl")
    """The file of result lines; runs that are in it are not repeated."""
    report: Path | None = None
    """Write tables and plot to this path, with .md and .png added."""


@dataclass(frozen=True)
class CompareRun:
    """One run. Its result line is found by these fields; `settings` is a fingerprint of all that decide the weights."""

    objective: str
    policy: str
    seed: int
    steps: int
    recording: str
    file_bytes: int
    pairs: int
    control: str
    settings: str


def measure(settings: CompareSettings) -> list[Result]:
    """Return the result lines of all runs, after doing the runs that are missing in the file."""
    count = sum(1 for _ in _pairs(settings.recording))
    if not count:
        raise Failed(f"{', '.join(map(str, settings.recording))}: there is no pair to learn from")
    grid = itertools.product(settings.seeds, settings.objectives, settings.policies)
    configs = {key: _config(settings, *key, count) for key in grid}
    for config in configs.values():  # a wrong set is told before the first run
        for word in settings.control:
            _control(settings, word, config)
    capacity = next(iter(configs.values())).memory.capacity
    if len(settings.policies) > 1 and count <= capacity:
        report_progress(f"memory holds all {count} pairs, so policies only differ in what is drawn: lower --capacity")
    where = ", ".join(path.name for path in settings.recording)
    size = sum(path.stat().st_size for path in settings.recording)
    limit = settings.control_limit
    sets = " ".join([*settings.control, *([] if limit is None else [f"at most {limit}"])])
    runs = {
        CompareRun(objective, policy, seed, settings.steps, where, size, count, sets, fingerprint(config)): config
        for (seed, objective, policy), config in configs.items()
    }
    run = partial(run_one, settings=settings, configs=runs)
    return completed(list(runs), settings.results, run, jobs=settings.jobs, describe=_describe)


def run_one(run: CompareRun, settings: CompareSettings, configs: dict[CompareRun, LearnerConfig]) -> Result:
    """Train one run from its random start to its last step; return what its result line has beside the fields of the run."""
    use_one_thread()
    config = configs[run]
    learner = Learner(config, torch.device("cpu"))
    controls = [_control(settings, word, config) for word in settings.control]

    def probe() -> dict[str, Any]:
        return {"pairs": learner.received, **accuracies_on(learner, controls)}

    marks = evenly(run.steps, min(settings.probes, run.steps))
    return {"curve": curve(learner, _pairs(settings.recording), marks, probe)}


def render(settings: CompareSettings, lines: Sequence[Result]) -> list[str]:
    """Return the tables, and write them to the report too, with the plot."""
    return rendered(settings.report, f"# Compared on {lines[0]['recording']}", tables(lines), partial(plot, lines))


COMMAND = Bench(CompareSettings, measure, render, json_lines=list)


def _config(settings: CompareSettings, seed: int, objective: str, policy: str, count: int) -> LearnerConfig:
    config = replace(preset(settings.preset, objective_named(objective)), seed=seed, precision="float32")
    sizes = {"memory.capacity": settings.capacity, "pacing.batch_size": settings.batch_size, "memory.policy": policy}
    config = spent_over(changed(config, sizes), settings.steps, count)
    if config.pacing.batch_size > count:
        raise SettingsError(
            f"a step takes {config.pacing.batch_size} samples, and the recording has {count} pairs: lower --batch-size"
        )
    return config


def _control(settings: CompareSettings, word: str, config: LearnerConfig) -> Any:
    limit = settings.control_limit
    return control_set(word, config.crops.probe_size, limit, limit)


def _pairs(paths: Sequence[Path]) -> Iterator[EncodedPair]:
    with closing(RecordingSource(paths)) as source:
        while True:
            try:
                yield from source.receive(RECEIVE_PAIRS, 0.0)
            except EndOfStream:
                return


def _describe(line: Result) -> str:
    first, last = line["curve"][0], line["curve"][-1]
    gains = (f"{name} {100 * first[name]:.1f} -> {100 * last[name]:.1f}" for name in last if name.endswith(" knn"))
    return f"{line['objective']} {line['policy']} seed {line['seed']}: {'  '.join(gains)}  {last['cpu_s']:.0f} CPU-s"
