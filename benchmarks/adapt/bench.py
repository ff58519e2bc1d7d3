"""What do weights that somebody has gain on a stream, and what do they forget, by the way in which they are adapted?

Each run begins with the same weights, given (`--weights`) or trained by the bench on a walk through another simulated world, and
trains on the stream until its budget of CPU time is spent. On the way it is probed several times: on labelled control sets, which
say what it forgets; on the places of the simulated world, as two other walks see them; and on pairs of the stream that are held
out. All is compared with the weights that it began with. The arm `scratch` begins at random, and is compared with them too.

Runs are independent of each other, and each is a line of a file, so a stopped bench continues.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from benchmarks.adapt.arms import ARMS, SCRATCH, config_of
from benchmarks.adapt.figures import above, by_objective, plot, tables, worst
from benchmarks.adapt.run import CONTROL, PLACES, STREAM, adapted
from benchmarks.adapt.start import made_start
from benchmarks.adapt.stream import WALK, check, pairs_of
from benchmarks.learning import WalkSettings
from benchmarks.shared.bench import Bench, Goal
from benchmarks.shared.bounds import Count, Names, SomeOf, Within
from benchmarks.shared.probing import control_set, places_of
from benchmarks.shared.results import Result, completed, fingerprint, in_processes, rendered
from device.sim.camera import SimConfig
from learner.config import LearnerConfig
from learner.errors import Failed, SettingsError
from learner.memory.holdout import MAX_SHARE
from learner.pretrained.files import find
from learner.pretrained.start import TIMM
from learner.probes.control_sets import load_control

MOST_LOST, LEAST_GAINED = -0.5, 8.0
"""The goals, in points above the start: control sets at their worst, places and the stream's probe at the end."""


@dataclass(frozen=True, kw_only=True)
class AdaptSettings(WalkSettings):
    """Adapt weights to a stream in several ways: a line for each run with its curves, tables with intervals, a plot."""

    arms: Annotated[tuple[str, ...], SomeOf(ARMS)] = tuple(ARMS)
    """Ways to go on: full, last and lora without the frozen second teacher, full+anchor and lora+anchor with it; scratch from
    random weights."""
    objectives: Annotated[tuple[str, ...], Names()] = ("ntxent", "mae")
    """Objectives, each with its own views; also package.module:Class of yours."""
    weights: str | None = None
    """Weights to start from, as for the learner's --encoder.weights. Without any the bench trains a small backbone."""
    start_steps: Count = 1000
    """Steps of that small backbone, some five minutes of CPU time. Its file lies beside the results and is made once."""
    stream: tuple[str, ...] = WALK
    """sim: a simulated walk. Or recordings, films and folders, one after the other and again, as for --replay and --source."""
    holdout: Annotated[float, Within(0, MAX_SHARE)] = 0.1
    """Share of the stream that is held out, in stretches of 24 pairs; a short recording needs much."""
    control_limit: Count | None = None
    """Largest number of images in each half of a control set."""
    probes: Count = 5
    """Probes of a run after its start, evenly spread over the budget."""
    learner: str = ""
    """Further flags of the learner for every run, such as --learner="--pacing.batch-size 32 --schedule.learning-rate 1e-4"."""
    results: Path = Path("runs/adapt.jsonl")
    """The file of result lines; runs that are in it are not repeated."""
    report: Path | None = None
    """Write the tables and the plot to this path, with .md and .png added."""


@dataclass(frozen=True)
class AdaptRun:
    """One run. Its result line is found by these fields; `settings` is a fingerprint of all that decide the weights."""

    arm: str
    objective: str
    seed: int
    weights: str
    sha256: str
    stream: str
    cpu_min: float
    probes: int
    control: str
    per_place: int
    settings: str


def measure(settings: AdaptSettings) -> list[Result]:
    """Return the result lines of all runs, after doing the runs that are missing in the file."""
    if not settings.control:
        raise SettingsError("--control: name at least one set, in which forgetting can be seen")
    check(settings.stream)
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    starts = _starts(settings)
    of_file = {weights: _digest(weights) for weights in {*starts.values()}}
    digests = {seed: of_file[weights] for seed, weights in starts.items()}
    size = (settings.cpu_min, settings.probes, " ".join(_sets_named(settings)), settings.per_place)
    configs, runs = {}, {}
    # In this order a walk is made once for each seed, and whole seeds are complete early.
    for seed, objective, arm in itertools.product(settings.seeds, settings.objectives, settings.arms):
        if (objective, arm) not in configs:
            configs[objective, arm] = config_of(arm, objective, starts[seed], settings.holdout, settings.learner)
        config = configs[objective, arm]
        config = replace(config, seed=seed, encoder=replace(config.encoder, weights=None))
        told = (_weights_named(settings), digests[seed], _stream_named(settings), *size)
        key = AdaptRun(arm, objective, seed, *told, fingerprint(config))
        runs[key] = replace(config, encoder=replace(config.encoder, weights=None if arm == SCRATCH else starts[seed]))
    run = partial(run_one, settings=settings, configs=runs, starts=starts)
    return completed(list(runs), settings.results, run, jobs=settings.jobs, describe=_describe)


def render(settings: AdaptSettings, lines: Sequence[Result]) -> list[str]:
    """Return the tables, and write them to the report too, with the plot."""
    return rendered(settings.report, "# Adapting weights to a stream", tables(lines), partial(plot, lines))


def goals(lines: Sequence[Result]) -> Iterator[Goal]:
    """Yield the goals of each arm that adapts: it keeps what the start knew, and learns what the stream shows."""
    for objective, runs in by_objective(lines).items():
        for arm in (name for name in runs.names if name != SCRATCH):
            mine, title = runs.lines[arm], f"{objective}, {arm}: points above the start"
            yield Goal(f"{title}, control sets at their worst", float(worst(mine).mean()), MOST_LOST, at_least=True)
            for what in (PLACES, STREAM):
                if any(what in line["curve"][-1] for line in mine):
                    end = float(above(mine, what)[:, -1].mean())
                    yield Goal(f"{title}, {what} at the end", end, LEAST_GAINED, at_least=True)
            if SCRATCH in runs.names:
                ahead = above(mine, CONTROL)[:, -1] - above(runs.lines[SCRATCH], CONTROL)[:, -1]
                yield Goal(
                    f"{objective}, {arm}: control sets, points above {SCRATCH}", float(ahead.mean()), 0, at_least=True
                )


COMMAND = Bench(AdaptSettings, measure, render, goals, json_lines=list)


def run_one(
    run: AdaptRun, settings: AdaptSettings, configs: Mapping[AdaptRun, LearnerConfig], starts: Mapping[int, str]
) -> Result:
    """Do one run; return what its result line has beside the fields of the run. Raises Failed for another start than before."""
    config, limit = configs[run], settings.control_limit
    if _digest(starts[run.seed]) != run.sha256:
        raise Failed(f"{starts[run.seed]} has changed while the bench runs: give it a copy, and start it again")
    world = SimConfig(seed=run.seed, textures=settings.textures)
    sets = [control_set(word, config.crops.probe_size, limit, limit) for word in settings.control]
    places = places_of(world, per_place=settings.per_place) if settings.stream == WALK else None
    due_s = [60 * settings.cpu_min * part / settings.probes for part in range(1, settings.probes + 1)]
    label = f"seed {run.seed}  {run.objective}, {run.arm}"
    return adapted(config, starts[run.seed], pairs_of(settings.stream, world), sets, places, due_s, label)


def _starts(settings: AdaptSettings) -> dict[int, str]:
    """Return the weights that the runs of each seed start from; those that the bench makes are trained first."""
    if settings.weights is not None:
        return dict.fromkeys(settings.seeds, settings.weights)
    # What is wrong is told before minutes are spent on a start.
    for objective in settings.objectives:
        config_of(SCRATCH, objective, None, settings.holdout, settings.learner)
    for word in settings.control:
        load_control(word, size=1, limit_train=settings.control_limit, limit_test=settings.control_limit)
    make = partial(made_start, folder=settings.results.parent, steps=settings.start_steps)
    return {seed: str(path) for seed, path in in_processes(make, settings.seeds, settings.jobs)}


def _digest(weights: str) -> str:
    """Return digits that change with the weights: an export is replaced at each commit of its run."""
    return "" if weights.startswith(TIMM) else find(weights).sha256()[:12]


def _weights_named(settings: AdaptSettings) -> str:
    return settings.weights or f"{settings.start_steps} steps in another world"


def _stream_named(settings: AdaptSettings) -> str:
    return " ".join([*settings.stream, settings.textures_named]).strip()


def _sets_named(settings: AdaptSettings) -> list[str]:
    return [*settings.control, *([] if settings.control_limit is None else [f"at most {settings.control_limit}"])]


def _describe(line: Result) -> str:
    what = [name for name in (CONTROL, PLACES, STREAM) if name in line["curve"][-1]]
    gains = (f"{name} {above([line], name)[0, -1]:+.1f}" for name in what)
    return f"seed {line['seed']}  {line['objective']}, {line['arm']}, {line['steps']} steps: {'  '.join(gains)}"
