"""Continuous or nightly training? Compares the original experiment's nightly training, ours and shuffled training.

All see the same recorded days. A run is a regime and a seed. It goes from its random start through all days, and is probed after
each day. Every regime of a seed sees the same pairs and starts from the same weights. The continuous and the shuffled regime take
the same number of steps for each pair, the second continuous one half as many. The nightly one takes as many for each new pair of
a night as the original experiment; the first night has nothing to recall and pairs of the last day are not trained on, so it
takes some 15 % fewer. Each run is a line of a file, so a stopped bench continues.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.regimes.days import RecordedDays, Route
from benchmarks.regimes.figures import DEGREES, FIRST_DAY, plot, tables
from benchmarks.regimes.train import ORIGINAL_NIGHT, REGIMES, Night
from benchmarks.shared import probing
from benchmarks.shared.bench import Bench, report_progress
from benchmarks.shared.bounds import Names, SomeOf, Within
from benchmarks.shared.recipes import PRESETS, SMALL_NETWORK, changed
from benchmarks.shared.results import GridSettings, Result, completed, fingerprint, rendered
from learner.config import LearnerConfig
from learner.networks.encoder import Encoder
from learner.probes.control_sets import ControlSet, stratified
from learner.probes.probe import BANK_SHARE, extract, knn_accuracy, rotate
from learner.probes.spectrum import alpha_req, rankme


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of a bench: days, pairs, networks and probes."""

    preset: str = "cpu"
    route: Route
    night: Night = ORIGINAL_NIGHT
    settings: Mapping[str, Any]
    """Settings that differ from the preset, by their dotted names."""
    max_train: int | None = None
    """Largest number of images in the train half of each control set."""
    max_test: int | None = None
    seeds: tuple[int, ...] = (1, 2, 3)


_ROUTE = Route(days=10, pairs_a_day=600, rooms_a_day=4, size=(240, 320), per_place=50)
"""The original experiment has as many days and pairs."""
SCALES = {
    "smoke": Scale(
        route=Route(days=4, pairs_a_day=100, rooms_a_day=2, size=(120, 160), per_place=20),
        night=Night(trigger_pairs=150, epochs=10),
        settings={"pacing.batch_size": 32},
        max_train=1000,
        max_test=500,
        seeds=(0,),
    ),
    "cpu": Scale(route=_ROUTE, settings=SMALL_NETWORK, max_train=5000, max_test=2000),
    "gpu": Scale(preset="gpu", route=replace(_ROUTE, size=(480, 640)), settings={}),
}


@dataclass(frozen=True, kw_only=True)
class RegimesSettings(GridSettings):
    """Compare regimes on recorded days: tables by day as in the original experiment, and plots."""

    scale: Literal["smoke", "cpu", "gpu"] = "smoke"
    """smoke: all regimes in ten minutes on two cores, without any conclusion; cpu: ten days, a small network, an hour; gpu:
    DeiT-S."""
    regimes: Annotated[tuple[str, ...], SomeOf(REGIMES)] = tuple(REGIMES)
    """The regimes to compare; others can be added later."""
    seeds: Annotated[tuple[int, ...], Within(0, empty=True)] = ()
    """Seeds of worlds, walks, weights and chance; if none is given, those of the scale."""
    control: Annotated[tuple[str, ...], Names()] = ("digits",)
    """Labelled sets beside the places, as for the learner: `digits`, PATH or NAME=PATH."""
    folder: Path = Path("runs/regimes")
    """Where the recorded days and the result lines are kept."""
    report: Path | None = None
    """Write the tables and the plots to this path, with .md and .png added."""
    device: probing.Device = "auto"
    """Where to train; auto takes a GPU if there is one."""

    def days(self, seed: int) -> RecordedDays:
        """Return the recorded days of a seed; they are recorded if they are missing."""
        return RecordedDays(self.folder / self.scale, SCALES[self.scale].route, seed=seed, textures=self.textures)


@dataclass(frozen=True)
class RegimeRun:
    """One run: a regime through all days of a seed. Its result line is found by these fields."""

    scale: str
    regime: str
    seed: int
    control: str
    textures: str
    settings: str
    """Fingerprint of the regime's settings."""
    device: str
    """cpu or cuda."""


def measure(settings: RegimesSettings) -> list[Result]:
    """Return the result lines of all runs, after doing the runs that are missing in the file."""
    told = " ".join(settings.control), settings.textures_named
    device = str(probing.compute_device(settings.device))
    scale = SCALES[settings.scale]
    prints = {regime: fingerprint(REGIMES[regime][0](_config(scale, 0))) for regime in settings.regimes}
    runs = [
        RegimeRun(settings.scale, regime, seed, *told, prints[regime], device)
        for seed in settings.seeds or scale.seeds
        for regime in settings.regimes
    ]
    for seed in {run.seed for run in runs}:  # before any process starts, so that no two of them record the same days
        settings.days(seed)
    results = settings.folder / f"{settings.scale}.jsonl"
    run = partial(run_regime, settings=settings)
    return completed(runs, results, run, jobs=settings.jobs, describe=_describe)


def render(settings: RegimesSettings, lines: Sequence[Result]) -> list[str]:
    """Return the tables, and write them to the report too, with plots."""
    return rendered(settings.report, _introduction(settings), tables(lines), partial(plot, lines))


def day_lines(lines: Sequence[Result]) -> Iterator[Result]:
    """Yield a JSON value for each day and regime."""
    for line in lines:
        yield from ({"regime": line["regime"], "seed": line["seed"], **day} for day in line["days"])


COMMAND = Bench(RegimesSettings, measure, render, json_lines=day_lines)


def _introduction(settings: RegimesSettings) -> str:
    """Return the introduction that a reader of the tables needs."""
    scale = SCALES[settings.scale]
    route, night = scale.route, scale.night
    changes = "".join(f", {name} {value}" for name, value in scale.settings.items())
    seeds = ", ".join(map(str, settings.seeds or scale.seeds))
    return (
        f"# Continuous or nightly?\n\nScale `{settings.scale}`: {route.days} days of {route.pairs_a_day} pairs, "
        f"{route.rooms_a_day} new rooms a day, preset `{scale.preset}`{changes}, seeds {seeds}. A night begins at "
        f"{night.trigger_pairs} new pairs and has {night.epochs} epochs; {night.samples_a_pair:g} samples a pair in the "
        "continuous and the shuffled regime; nightly trains on fewer, see its steps. Accuracies in percent, means over seeds; "
        "differences are paired by seed, ± their 95 % interval."
    )


def run_regime(run: RegimeRun, settings: RegimesSettings) -> Result:
    """Train one run through all days; return what its result line has beside the fields of the run."""
    device = probing.compute_device(settings.device)
    probing.use_one_thread(device)
    scale, recorded = SCALES[run.scale], settings.days(run.seed)
    change, regime = REGIMES[run.regime]
    config = change(_config(scale, run.seed))
    controls = _controls(settings, recorded, config.crops.probe_size)
    lines: list[Result] = []
    encoders: Mapping[str, Encoder] = {}
    cpu_s, started_s, resumed_s = 0.0, time.process_time(), time.process_time()
    for day in regime(config, recorded, scale.night, device):
        cpu_s += time.process_time() - resumed_s
        encoders = day.learner.objective.encoders()
        if not lines or day.learner.steps != lines[-1]["steps"]:  # otherwise the networks have not changed
            rooms = recorded.route.rooms_a_day
            probes = {name: _probe(encoder, controls, rooms, device) for name, encoder in encoders.items()}
        lines.append({"day": len(lines) + 1, "cpu_s": round(cpu_s, 1), **day.figures(), "probes": probes})
        report_progress(_describe_day(run, lines[-1]))
        resumed_s = time.process_time()
    turned = {name: _probe_turned(encoder, controls, device) for name, encoder in encoders.items()}
    all_cpu_s = round(time.process_time() - started_s, 1)
    return {"days": lines, "turned": turned, "all_cpu_s": all_cpu_s, "device": str(device)}


def _config(scale: Scale, seed: int) -> LearnerConfig:
    return changed(replace(PRESETS[scale.preset], seed=seed), scale.settings)


def _controls(settings: RegimesSettings, recorded: RecordedDays, size: int) -> list[ControlSet]:
    """Return the control sets that the flag names, then the places of the seed's days.

    The images of places are large enough to show a picture on a wall.
    """
    scale = SCALES[settings.scale]
    sets = [probing.control_set(spec, size, scale.max_train, scale.max_test) for spec in settings.control]
    return [*sets, recorded.places(max(size, probing.PLACE_SIZE))]


def _probe(encoder: Encoder, controls: Sequence[ControlSet], rooms: int, device: torch.device) -> Result:
    """Return accuracies on each control set and on the first day's places, and rank and spectrum of the features.

    Rank and spectrum are those on the first control set.
    """
    found: Result = {}
    for control in controls:
        bank, test = probing.features_of(encoder, control, device)
        found[control.name] = _accuracies(control, bank, test)
        if control is controls[0]:
            found["gauges"] = {"rankme": rankme(bank), "alpha_req": alpha_req(bank)}
    first = control.test_labels < rooms  # of the places, which are the last of the sets
    mine = replace(control, test_labels=control.test_labels[first])
    found[FIRST_DAY] = _accuracies(mine, bank, test[torch.from_numpy(first)])
    return found


def _accuracies(control: ControlSet, bank: Tensor, test: Tensor) -> dict[str, float]:
    """Return accuracies of k-NN with the whole bank and with 10 % of it, and of the linear classifier.

    The last two are the probes of the original experiment.
    """
    labels = control.train_labels
    tenth = stratified(labels, BANK_SHARE, np.random.default_rng(0))
    few = knn_accuracy(bank[torch.from_numpy(tenth)], labels[tenth], test, control.test_labels)
    return probing.accuracies(control, bank, test) | {"knn_10pct": few}


def _probe_turned(encoder: Encoder, controls: Sequence[ControlSet], device: torch.device) -> Result:
    """Return the accuracies on each control set with test images rotated by each of DEGREES; the bank stays upright."""
    found: Result = {}
    for control in controls[:-1]:
        bank = extract(encoder, control.train_images, device=device)
        turned = (extract(encoder, rotate(control.test_images, degrees), device=device) for degrees in DEGREES)
        found[control.name] = [_accuracies(control, bank, test) for test in turned]
    return found


def _describe_day(run: RegimeRun, day: Result) -> str:
    student = day["probes"]["student"]
    probes = "  ".join(f"{name} {100 * student[name]['knn_10pct']:.1f}" for name in student if name != "gauges")
    head = f"{run.regime} seed {run.seed} day {day['day']}"
    return f"{head}  step {day['steps']}  {day['cpu_s']:.0f} CPU-s  k-NN 10 %: {probes}"


def _describe(line: Result) -> str:
    last = line["days"][-1]
    return f"{line['regime']} seed {line['seed']}: {last['steps']} steps, {last['cpu_s']:.0f} CPU-s"
