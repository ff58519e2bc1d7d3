"""Does the representation get better while the rig walks? One learner a seed, from a random start, on a fixed CPU budget.

The stream is the simulated walk through dedupe and codec, as a source the learner sets the pace of, so that a seed's run is
repeatable. Every seed has its own world, walk and weights. Measured on the student before and after: k-NN and linear
accuracy on the control sets given, and on the places of the seed's own world as two other walks see them.
The budget counts the learner's CPU time: receiving, decoding and training; not the rendering of the world, which is the
rig's, and not the probes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from device.sim.control_set import write_control_set
from learner.config import PRESETS
from learner.loop import Learner, StepReport, learn
from learner.probes.control_sets import ControlSet, load_control
from learner.probes.probe import run_probe
from stream.pair import EncodedPair
from stream.source import IteratorSource

PLACES = "places"
PLACES_SIZE = 96
"""Side in pixels a view of a place is shown at: about the scale the crops are trained at."""


@dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """Train from a random start on simulated walks and measure what was gained, over seeds."""

    textures: Path | None = None
    """A folder of photographs to hang into the worlds; procedural pictures without it."""
    control: tuple[str, ...] = ("digits",)
    """Control sets beside the places, as for the learner."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seeds a world, a walk and a learner."""
    cpu_min: float = 10.0
    """Budget of a seed: minutes of the learner's CPU time."""
    preset: str = "cpu"
    """The learner's settings."""
    per_place: int = 100
    """Labelled views of each place, in each half of its control set."""
    jobs: int = 1
    """Seeds trained side by side, one thread each."""
    json: bool = False
    """One JSON line a seed instead of progress; the table goes to the standard error."""


@dataclass(frozen=True)
class Gain:
    """A probe over the seeds: means, and the standard error of the mean gain."""

    before: float
    after: float
    gain: float
    standard_error: float

    @property
    def sigmas(self) -> float:
        """The gain in standard errors."""
        return self.gain / self.standard_error if self.standard_error else math.inf * np.sign(self.gain)


def main(arguments: Sequence[str]) -> int:
    """Run all seeds and print the gains; returns 1 where one is not three standard errors above zero."""
    settings = tyro.cli(LearningSettings, args=list(arguments), prog="python -m benchmarks learning")
    if settings.preset not in PRESETS or not settings.seeds:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)} and --seeds at least one number")
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    with ProcessPoolExecutor(settings.jobs, mp_context=context) as pool:
        results = list(pool.map(_train_seed, [(settings, seed) for seed in settings.seeds]))
    gains = summarise(results)
    _tell(settings, results, gains)
    return 0 if all(gain.gain > 3 * gain.standard_error for gain in gains.values()) else 1


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Gain]:
    """Gains by probe from the seeds' results; the standard error is that of the mean over seeds, nan for one seed."""
    gains = {}
    for name in results[0]["before"]:
        before = np.array([result["before"][name] for result in results])
        after = np.array([result["after"][name] for result in results])
        gain = after - before
        error = float(gain.std(ddof=1) / math.sqrt(len(gain))) if len(gain) > 1 else math.nan
        gains[name] = Gain(float(before.mean()), float(after.mean()), float(gain.mean()), error)
    return gains


class _Metered:
    """Pairs of an iterator, with the CPU time that making them took, so that it can be left out of the budget."""

    def __init__(self, pairs: Iterator[EncodedPair]) -> None:
        self._pairs = pairs
        self.cpu_s = 0.0

    def __iter__(self) -> Iterator[EncodedPair]:
        while True:
            started_s = time.process_time()
            pair = next(self._pairs, None)
            self.cpu_s += time.process_time() - started_s
            if pair is None:
                return
            yield pair


def _train_seed(task: tuple[LearningSettings, int]) -> dict[str, Any]:
    """One seed from its random start to the end of its budget."""
    settings, seed = task
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    say: Callable[[str], None] = (lambda _text: None) if settings.json else _say
    config = dataclasses.replace(PRESETS[settings.preset], seed=seed)
    learner = Learner(config, torch.device("cpu"))
    world = SimConfig(seed=seed, textures=settings.textures)
    controls = _controls(settings, world, config.objective.probe_size)
    rig = _Metered(capture(SimCamera(world), Dedupe(DedupeConfig(), seed=seed), device="sim", epoch=f"{seed:032x}"))
    before = _probe(learner, controls)
    say(f"seed {seed}  random start  {_percent(before)}")
    started_s, budget_s, told_s = time.process_time(), 60 * settings.cpu_min, 0.0
    last: StepReport | None = None
    for event in learn(learner, IteratorSource(rig), clock=time.monotonic):
        used_s = time.process_time() - started_s - rig.cpu_s
        if isinstance(event, StepReport):
            last = event
            if used_s - told_s >= 30:
                told_s = used_s
                say(f"seed {seed}  {used_s:.0f}/{budget_s:.0f} CPU-s  step {event.step}  loss {event.loss:.2f}")
        if used_s >= budget_s:
            break
    after = _probe(learner, controls)
    say(f"seed {seed}  step {learner.steps}  {_percent(after)}")
    return {
        "seed": seed,
        "preset": settings.preset,
        "before": before,
        "after": after,
        "steps": learner.steps,
        "pairs_received": learner.received,
        "pairs_suppressed": learner.suppressed,
        "cpu_s": round(time.process_time() - started_s - rig.cpu_s, 1),
        "rig_cpu_s": round(rig.cpu_s, 1),
        "loss": last.loss if last else None,
        "gauges": last.gauges if last else {},
    }


def _controls(settings: LearningSettings, world: SimConfig, size: int) -> list[ControlSet]:
    """The sets asked for, and the places of this world."""
    sets = [load_control(spec, size=size, limit_train=None, limit_test=None) for spec in settings.control]
    with tempfile.TemporaryDirectory() as folder:
        write_control_set(Path(folder) / PLACES, config=world, count=30_000, every=3, per_place=settings.per_place)
        sets.append(load_control(f"{PLACES}={folder}/{PLACES}", size=PLACES_SIZE, limit_train=None, limit_test=None))
    return sets


def _probe(learner: Learner, controls: Sequence[ControlSet]) -> dict[str, float]:
    student = learner.objective.encoders()["student"]
    found = {}
    for control in controls:
        result = run_probe(student, control)
        found[f"{control.name} k-NN"] = result.knn
        found[f"{control.name} linear"] = result.linear
    return found


def _percent(accuracies: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {100 * value:.1f} %" for name, value in accuracies.items())


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
    sys.stdout.flush()


def _tell(settings: LearningSettings, results: Sequence[Mapping[str, Any]], gains: Mapping[str, Gain]) -> None:
    if settings.json:
        for result in results:
            sys.stdout.write(json.dumps(result) + "\n")
    table = Table("probe of the student", "random start", "after", "gain", "standard error", "gain / SE")
    for name, gain in gains.items():
        numbers = (100 * gain.before, 100 * gain.after, 100 * gain.gain, 100 * gain.standard_error, gain.sigmas)
        table.add_row(name, *(f"{number:.1f}" for number in numbers))
    table.title = f"{len(results)} seeds, preset {settings.preset}, {settings.cpu_min:g} CPU-minutes each"
    Console(stderr=settings.json, highlight=False).print(table)
