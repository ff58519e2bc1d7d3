"""Continuous or nightly? The same recorded days through the seed's nightly learner as it was, ours, and shuffled training.

A run is a regime and a seed: from its random start through all days, probed after each. Every regime of a seed sees the same
pairs and starts from the same weights; the nightly one, the continuous one and the shuffled one take the same number of steps
per pair, the second continuous one half as many. Runs are lines of a file: a bench that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console
from torch import Tensor

from benchmarks.ablation.rows import changed
from benchmarks.regimes.days import Diary, Itinerary
from benchmarks.regimes.figures import plot, tables
from benchmarks.regimes.train import REGIMES, Day, Night
from benchmarks.shared.results import Line, completed, fingerprint
from learner.config import PRESETS, LearnerConfig
from learner.objectives.babyagent import BabyAgentConfig
from learner.probes.control_sets import ControlSet, load_control, stratified
from learner.probes.probe import BANK_SHARE, extract, knn_accuracy, linear_accuracy, rotate
from learner.probes.spectrum import alpha_req, rankme


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is."""

    preset: str
    itinerary: Itinerary
    night: Night
    settings: Mapping[str, Any]
    """What the preset has otherwise, by dotted names."""
    max_train: int | None
    """Images of each control set's train half, at most."""
    max_test: int | None
    seeds: tuple[int, ...]


_SEEDS_DAYS = {"days": 10, "pairs_a_day": 600}
_SEEDS_NIGHT = Night(trigger_pairs=1500, epochs=50)
SCALES = {
    "smoke": Scale(
        preset="cpu",
        itinerary=Itinerary(days=4, pairs_a_day=100, rooms_a_day=2, size=(120, 160), per_place=20),
        night=Night(trigger_pairs=150, epochs=10),
        settings={"pacing.batch_size": 32},
        max_train=1000,
        max_test=500,
        seeds=(0,),
    ),
    "cpu": Scale(
        preset="cpu",
        itinerary=Itinerary(**_SEEDS_DAYS, rooms_a_day=4, size=(240, 320), per_place=50),
        night=_SEEDS_NIGHT,
        settings={"encoder.embed_dim": 64, "encoder.depth": 2, "encoder.heads": 2, "objective.crops": 2},
        max_train=5000,
        max_test=2000,
        seeds=(1, 2, 3),
    ),
    "gpu": Scale(
        preset="babyagent",
        itinerary=Itinerary(**_SEEDS_DAYS, rooms_a_day=4, size=(480, 640), per_place=50),
        night=_SEEDS_NIGHT,
        settings={},
        max_train=None,
        max_test=None,
        seeds=(1, 2, 3),
    ),
}
"""smoke: ten minutes on two cores, to see that every row is there; it claims nothing. cpu: the seed's days with a smaller
network, an hour on two cores. gpu: the same with DeiT-S."""


@dataclass(frozen=True, kw_only=True)
class RegimesSettings:
    """Compare regimes on recorded days: one JSON line a day and regime, the seed's two tables by day, plots."""

    scale: Literal["smoke", "cpu", "gpu"] = "smoke"
    """smoke: all rows in ten minutes, no claim; cpu: the seed's days, a smaller network, an hour on two cores; gpu: DeiT-S."""
    regimes: tuple[str, ...] = tuple(REGIMES)
    """Which to compare; those that are left out can be added later."""
    seeds: tuple[int, ...] = ()
    """Each decides worlds, walks, weights and chance; none: those of the scale."""
    control: tuple[str, ...] = ("digits",)
    """Labelled sets beside the places, as for the learner: `digits`, PATH or NAME=PATH."""
    textures: Path | None = None
    """A folder of photographs to hang into the worlds; procedural pictures without it."""
    folder: Path = Path("runs/regimes")
    """Where the recorded days and the result lines are kept."""
    report: Path | None = None
    """Write the tables and the plots to this path with .md and .png behind it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    jobs: int = 1
    """Runs side by side, one thread each on a CPU."""
    json: bool = False
    """Lines on the standard output, a day and regime each, instead of progress; the tables go to the standard error."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.regimes if name not in REGIMES]
        if unknown or not self.regimes:
            raise ValueError(f"--regimes must be among: {'; '.join(REGIMES)}; got {'; '.join(unknown) or 'nothing'}")
        if self.jobs < 1 or any(seed < 0 for seed in self.seeds):
            raise ValueError("--jobs must be at least 1 and --seeds at least 0")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda was asked for, but torch finds no GPU here")


@dataclass(frozen=True)
class Run:
    """One regime through all days of a seed. The fields are what a result line is known by."""

    scale: str
    regime: str
    seed: int
    control: str
    textures: str
    settings: str
    """Fingerprint of the regime's."""


DEGREES = (0, 10, 20, 30, 40)
"""The seed turned its control images by up to forty degrees."""
FIRST_DAY = "first day's places"


def main(arguments: Sequence[str]) -> int:
    """Run what is missing, then compare all there is."""
    settings = tyro.cli(RegimesSettings, args=list(arguments), prog="python -m benchmarks regimes")
    scale = SCALES[settings.scale]
    seeds = settings.seeds or scale.seeds
    names = " ".join(spec.split("=")[0] for spec in settings.control)
    textures = settings.textures.name if settings.textures else ""
    prints = {regime: fingerprint(REGIMES[regime][0](_config(scale, 0))) for regime in settings.regimes}
    runs = [
        Run(settings.scale, regime, seed, names, textures, prints[regime])
        for seed in seeds
        for regime in settings.regimes
    ]
    for seed in seeds:  # before any process starts, so that no two of them record the same days
        _diary(settings, seed)
    results = settings.folder / f"{settings.scale}.jsonl"
    lines = completed(
        runs, results, partial(run_regime, settings=settings), jobs=settings.jobs, tell=None if settings.json else _told
    )
    for line in lines if settings.json else ():
        for day in line["days"]:
            sys.stdout.write(json.dumps({"regime": line["regime"], "seed": line["seed"], **day}) + "\n")
    found = tables(lines)
    Console(stderr=settings.json, highlight=False).print(found, markup=False, soft_wrap=True)
    if settings.report is not None:
        settings.report.parent.mkdir(parents=True, exist_ok=True)
        settings.report.with_suffix(".md").write_text(f"{_head(settings, seeds)}\n\n{found}\n")
        plot(lines, settings.report.with_suffix(".png"))
    return 0


def _head(settings: RegimesSettings, seeds: Sequence[int]) -> str:
    """What a reader of the tables has to know."""
    scale = SCALES[settings.scale]
    road, night = scale.itinerary, scale.night
    but = "".join(f", {name} {value}" for name, value in scale.settings.items())
    return (
        f"# Continuous or nightly?\n\nScale `{settings.scale}`: {road.days} days of {road.pairs_a_day} pairs, "
        f"{road.rooms_a_day} new rooms a day, preset `{scale.preset}`{but}, seeds "
        f"{', '.join(map(str, seeds))}. A night begins at {night.trigger_pairs} new pairs and has {night.epochs} epochs; "
        f"{night.samples_a_pair:g} samples a pair in every regime but the half and the random one. Accuracies in percent, means "
        "over seeds; differences are paired by seed, ± their 95 % interval."
    )


def _diary(settings: RegimesSettings, seed: int) -> Diary:
    folder = settings.folder / settings.scale
    return Diary(folder, SCALES[settings.scale].itinerary, seed=seed, textures=settings.textures)


def run_regime(run: Run, settings: RegimesSettings) -> Line:
    """One run through all days: what its result line has beside the fields of the run."""
    device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    cv2.setNumThreads(1)
    change, regime = REGIMES[run.regime]
    config = change(_config(SCALES[run.scale], run.seed))
    controls = _controls(settings, run.seed, config.objective.probe_size)
    days: list[Line] = []
    cpu_s, started_s, resumed_s = 0.0, time.process_time(), time.process_time()
    diary = _diary(settings, run.seed)
    last: Day | None = None
    for day in regime(config, diary, SCALES[run.scale].night, device):
        cpu_s += time.process_time() - resumed_s
        if not days or day.learner.steps != days[-1]["steps"]:  # else the networks are as they were
            probes = {name: _probe(encoder, controls, diary, device) for name, encoder in _encoders(day)}
        days.append({"day": len(days) + 1, "cpu_s": round(cpu_s, 1), **_figures(day), "probes": probes})
        if not settings.json:
            _progress(run, days[-1])
        last, resumed_s = day, time.process_time()
    assert last is not None  # an itinerary has days
    turned = {name: _turned(encoder, controls, device) for name, encoder in _encoders(last)}
    return {
        "days": days,
        "turned": turned,
        "all_cpu_s": round(time.process_time() - started_s, 1),
        "device": str(device),
    }


def _config(scale: Scale, seed: int) -> LearnerConfig:
    preset = PRESETS[scale.preset]
    assert isinstance(preset.objective, BabyAgentConfig)
    return changed(replace(preset, seed=seed), scale.settings)


@cache
def _control(spec: str, size: int, max_train: int | None, max_test: int | None) -> ControlSet:
    return load_control(spec, size=size, limit_train=max_train, limit_test=max_test)


def _controls(settings: RegimesSettings, seed: int, size: int) -> list[ControlSet]:
    """The sets asked for, then the places of the seed's days; these at a scale where a picture on a wall can be told."""
    scale = SCALES[settings.scale]
    sets = [_control(spec, size, scale.max_train, scale.max_test) for spec in settings.control]
    return [*sets, _diary(settings, seed).places(max(size, PLACE_SIZE))]


PLACE_SIZE = 96
"""Least side in pixels at which a view of a place is probed: about the scale that crops are trained at."""


def _encoders(day: Day) -> Iterator[tuple[str, Any]]:
    return iter(day.learner.objective.encoders().items())


def _probe(encoder: Any, controls: Sequence[ControlSet], diary: Diary, device: torch.device) -> Line:
    """Accuracies by control set, the rank and spectrum of the features on the first one, and the first day's places."""
    found: Line = {}
    for control in controls:
        bank, test = (extract(encoder, images, device=device) for images in (control.train_images, control.test_images))
        found[control.name] = _accuracies(control, bank, test)
        if not found.keys() - {control.name}:
            found["gauges"] = {"rankme": rankme(bank), "alpha_req": alpha_req(bank)}
    first = control.test_labels < diary.itinerary.rooms_a_day  # of the places, the last of the sets
    mine = replace(control, test_labels=control.test_labels[first])
    found[FIRST_DAY] = _accuracies(mine, bank, test[torch.from_numpy(first)])
    return found


def _accuracies(control: ControlSet, bank: Tensor, test: Tensor) -> dict[str, float]:
    """The seed's two probes, and k-NN over the whole bank."""
    labels, truth = control.train_labels, control.test_labels
    tenth = stratified(labels, BANK_SHARE, np.random.default_rng(0))
    return {
        "linear": linear_accuracy(bank, labels, test, truth),
        "knn_10pct": knn_accuracy(bank[torch.from_numpy(tenth)], labels[tenth], test, truth),
        "knn": knn_accuracy(bank, labels, test, truth),
    }


def _turned(encoder: Any, controls: Sequence[ControlSet], device: torch.device) -> Line:
    """Accuracies by control set on test images turned by each of DEGREES, the bank upright."""
    found: Line = {}
    for control in controls[:-1]:
        bank = extract(encoder, control.train_images, device=device)
        turned = (extract(encoder, rotate(control.test_images, degrees), device=device) for degrees in DEGREES)
        found[control.name] = [_accuracies(control, bank, test) for test in turned]
    return found


def _figures(day: Day) -> Line:
    """What a day did beside learning."""
    waits = np.array(day.waits_h)
    return {
        "steps": day.learner.steps,
        "samples": day.learner.samples,
        "pairs": day.learner.received,
        "rollbacks": day.rollbacks,
        "waits_h": {"mean": float(waits.mean()), "median": float(np.median(waits)), "most": float(waits.max())}
        if len(waits)
        else None,
        "gauges": {name: round(float(np.mean(values)), 4) for name, values in day.gauges.items()},
    }


def _progress(run: Run, day: Line) -> None:
    """On the standard error: runs of several processes, beside the lines of those that have ended."""
    accuracies = day["probes"]["student"]
    told = "  ".join(f"{name} {100 * accuracies[name]['knn_10pct']:.1f}" for name in accuracies if name != "gauges")
    text = f"{run.regime} seed {run.seed} day {day['day']}  step {day['steps']}  {day['cpu_s']:.0f} CPU-s  k-NN 10 %: {told}"
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
    sys.stderr.flush()


def _told(line: Line) -> str:
    return f"{line['regime']} seed {line['seed']}: {line['days'][-1]['steps']} steps, {line['days'][-1]['cpu_s']:.0f} CPU-s"
