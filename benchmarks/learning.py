"""Do the features get better while the rig walks? Trains one learner for each seed with a fixed budget of CPU time.

Each begins at a random start. The stream is the simulated walk after dedupe and codec. The learner sets its pace, so that a
seed's run is repeatable. Every seed has its own world, walk and weights. The student is measured before and after: k-NN and
linear accuracy on the given control sets, and on the places of the seed's own world as two other walks see them. The budget is
the CPU time of receiving, decoding and training. It does not include rendering the world, which is the rig's work, or probes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.shared import probing
from benchmarks.shared.bench import Bench, Goal, figure_table, report_progress
from benchmarks.shared.bounds import Count, Positive
from benchmarks.shared.pairs import TimedPairs, walk_pairs
from benchmarks.shared.recipes import PRESETS, Preset
from benchmarks.shared.results import GridSettings, Result, in_processes
from device.sim.camera import SimConfig
from learner.config import LearnerConfig
from learner.errors import Diverged
from learner.loop import Learner, StepReport, learn
from learner.probes.control_sets import ControlSet
from stream.pair import EncodedPair
from stream.source import IteratorSource

MIN_SIGMAS = 3.0
PROGRESS_S = 30.0


@dataclass(frozen=True, kw_only=True)
class WalkSettings(GridSettings):
    """The settings of benches that train on simulated walks with a budget of CPU time."""

    control: tuple[str, ...] = ("digits",)
    """Control sets in addition to the places, given as for the learner."""
    cpu_min: Positive = 10.0
    """Budget of a run: minutes of the learner's CPU time."""
    per_place: Count = 100
    """Labelled views of each place, in each half of its control set."""


@dataclass(frozen=True, kw_only=True)
class LearningSettings(WalkSettings):
    """Train from a random start on simulated walks, and measure the gain over several seeds."""

    preset: Preset = "cpu"
    """The learner's settings."""


@dataclass(frozen=True)
class Gain:
    """A probe over all seeds: mean values before and after, and the standard error of the mean gain."""

    before: float
    after: float
    gain: float
    standard_error: float

    @property
    def sigmas(self) -> float:
        """The gain in standard errors; nan for a single seed."""
        return self.gain / self.standard_error if self.standard_error else math.copysign(math.inf, self.gain or -1)


def measure(settings: LearningSettings) -> list[Result]:
    """Train one learner for each seed; return their figures, in the order of the seeds."""
    found = dict(in_processes(partial(train_seed, settings=settings), settings.seeds, settings.jobs))
    return [found[seed] for seed in settings.seeds]


def render(settings: LearningSettings, results: Sequence[Result]) -> list[Table]:
    """Return a table with the gain of each probe."""
    title = f"{len(results)} seeds, preset {settings.preset}, {settings.cpu_min:g} CPU-minutes each"
    rows = {
        name: [f"{100 * value:.1f}" for value in (gain.before, gain.after, gain.gain, gain.standard_error)]
        + [f"{gain.sigmas:.1f}"]
        for name, gain in summarise(results).items()
    }
    columns = ("probe of the student", "random start", "after", "gain", "standard error", "gain / SE")
    return [figure_table(title, columns, rows)]


def goals(results: Sequence[Result]) -> Iterator[Goal]:
    """Yield the goals: every gain is at least three standard errors above zero."""
    for name, gain in summarise(results).items():
        yield Goal(f"{name}: gain in standard errors", gain.sigmas, MIN_SIGMAS, at_least=True)


COMMAND = Bench(LearningSettings, measure, render, goals, json_lines=list)


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Gain]:
    """Return the gains by probe; the standard error is that of the mean over seeds, nan for one seed."""
    gains = {}
    for name in results[0]["before"]:
        before, after = (np.array([result[when][name] for result in results]) for when in ("before", "after"))
        gain = after - before
        error = float(gain.std(ddof=1) / math.sqrt(len(gain))) if len(gain) > 1 else math.nan
        gains[name] = Gain(float(before.mean()), float(after.mean()), float(gain.mean()), error)
    return gains


def train_seed(seed: int, settings: LearningSettings) -> Result:
    """Train one learner from its random start until its budget is spent; return its figures."""
    config = replace(PRESETS[settings.preset], seed=seed)
    world = SimConfig(seed=seed, textures=settings.textures)
    return {"seed": seed, "preset": settings.preset} | trained(
        config, world, walk_pairs(world), settings, f"seed {seed}"
    )


def trained(
    config: LearnerConfig, world: SimConfig, pairs: Iterable[EncodedPair], settings: WalkSettings, label: str
) -> Result:
    """Train one learner on the pairs of a walk until the budget is spent; return its figures. label: begins its progress.

    A training that cannot go on ends earlier: `stopped` then says why.
    """
    probing.use_one_thread()
    learner = Learner(config, torch.device("cpu"))
    sets = [probing.control_set(spec, config.crops.probe_size) for spec in settings.control]
    controls = [*sets, probing.places_of(world, per_place=settings.per_place)]
    rig = TimedPairs(pairs)
    before = _probe(learner, controls)
    report_progress(f"{label}  random start  {_percent(before)}")
    started_s, budget_s, reported_s, used_s = time.process_time(), 60 * settings.cpu_min, 0.0, 0.0
    last: StepReport | None = None
    stopped = None
    try:
        for event in learn(learner, IteratorSource(rig), clock=time.monotonic):
            used_s = time.process_time() - started_s - rig.cpu_s
            if isinstance(event, StepReport):
                last = event
                if used_s - reported_s >= PROGRESS_S:
                    reported_s = used_s
                    state = f"{used_s:.0f}/{budget_s:.0f} CPU-s  step {event.step}  loss {event.loss:.2f}"
                    report_progress(f"{label}  {state}")
            if used_s >= budget_s:
                break
    except Diverged as error:  # the weights are the last good ones, and are measured too
        stopped = str(error)
        report_progress(f"{label}  {stopped}")
    after = _probe(learner, controls)
    report_progress(f"{label}  step {learner.steps}  {_percent(after)}")
    return {
        "before": before,
        "after": after,
        "steps": learner.steps,
        "pairs_received": learner.received,
        "pairs_suppressed": learner.suppressed,
        "cpu_s": round(used_s, 3),
        "rig_cpu_s": round(rig.cpu_s, 3),
        "loss": last.loss if last else None,
        "gauges": last.gauges if last else {},
        "stopped": stopped,
    }


def _probe(learner: Learner, controls: Sequence[ControlSet]) -> dict[str, float]:
    student, found = probing.student_of(learner), {}
    for control in controls:
        for probe, accuracy in probing.measured(student, control).items():
            found[f"{control.name} {probing.PROBES[probe]}"] = accuracy
    return found


def _percent(found: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {100 * value:.1f} %" for name, value in found.items())
