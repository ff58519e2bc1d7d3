"""What is each choice worth? The preset with one thing changed a row, on the same walk, for the same number of steps.

Recipe rows change the objective, its views or its schedule; stream rows take away what the rig brings: dedupe, the second eye,
the guidance by attention, the order of time. Every row of a seed begins with the same weights and is probed alike; differences
from the preset are paired by seed. Runs are lines of a file: a bench that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console

from benchmarks.ablation.figures import correlations, tables
from benchmarks.ablation.rows import PRESET, RECIPE, ROWS, STREAM, Pairs
from benchmarks.shared.results import Line, completed, fingerprint
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from device.sim.control_set import write_control_set
from learner.config import PRESETS, LearnerConfig
from learner.loop import Learner, StepReport, learn
from learner.networks.encoder import Encoder
from learner.objectives.babyagent import BabyAgentConfig
from learner.probes.control_sets import ControlSet, load_control
from learner.probes.probe import extract, knn_accuracy, linear_accuracy
from learner.probes.spectrum import alpha_req, rankme
from stream.source import IteratorSource

FAMILIES = {"recipe": (PRESET, *RECIPE), "stream": (PRESET, *STREAM)}


@dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """Change one thing of the preset a row and see what it was worth: a result line a run, then a table with intervals."""

    rows: tuple[str, ...] = ("recipe", "stream")
    """`recipe`, `stream`, or rows by their names; the preset itself is always among them."""
    seeds: tuple[int, ...] = (11, 12, 13)
    """Each decides world, walk, weights and views."""
    pairs: int = 3000
    """Pairs that dedupe leaves of a walk; `without dedupe` has all pairs of as long a walk."""
    steps: int = 300
    """Gradient steps of a run."""
    preset: str = "cpu"
    """The learner's settings, with the objective `babyagent`."""
    control: tuple[str, ...] = ("digits",)
    """Control sets beside the places, as for the learner; the first one's features give rank and spectrum."""
    textures: Path | None = None
    """A folder of photographs to hang into the worlds; procedural pictures without it."""
    results: Path = Path("runs/ablation.jsonl")
    """Where result lines are kept; runs that are in it are not run again."""
    report: Path | None = None
    """Write the tables to this file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    jobs: int = 1
    """Runs side by side, one thread each on a CPU."""
    json: bool = False
    """Result lines on the standard output instead of progress; the tables go to the standard error."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.rows if name not in FAMILIES and name not in ROWS]
        if unknown or not self.rows:
            raise ValueError(
                f"--rows must be among: {'; '.join((*FAMILIES, *ROWS))}; got {'; '.join(unknown) or 'nothing'}"
            )
        if self.preset not in PRESETS or not isinstance(PRESETS[self.preset].objective, BabyAgentConfig):
            raise ValueError(f"--preset must be one with the objective babyagent, got {self.preset!r}")
        if not self.seeds or min(self.seeds) < 0 or min(self.pairs, self.steps, self.jobs) < 1:
            raise ValueError("--pairs, --steps and --jobs must be at least 1 and --seeds at least 0")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda was asked for, but torch finds no GPU here")

    @property
    def chosen(self) -> list[str]:
        """The rows, without repetition, the preset first."""
        return list(dict.fromkeys([PRESET, *(row for name in self.rows for row in FAMILIES.get(name, (name,)))]))


@dataclass(frozen=True)
class Run:
    """A row and a seed. The fields are what a result line is known by."""

    row: str
    seed: int
    pairs: int
    steps: int
    preset: str
    control: str
    textures: str
    settings: str
    """Fingerprint of the row's."""


PROBES = 2
"""Probes on the way, the last one at the end; the curve begins with the random start."""
RECENT = 20
"""Steps that a gauge beside a probe is the mean of."""


def main(arguments: Sequence[str]) -> int:
    """Run what is missing, then compare all there is."""
    settings = tyro.cli(AblationSettings, args=list(arguments), prog="python -m benchmarks ablation")
    names = " ".join(spec.split("=")[0] for spec in settings.control)
    size = (settings.pairs, settings.steps, settings.preset, names, settings.textures.name if settings.textures else "")
    prints = {row: fingerprint(ROWS[row].settings(PRESETS[settings.preset])) for row in settings.chosen}
    runs = [Run(row, seed, *size, prints[row]) for seed in settings.seeds for row in settings.chosen]
    device = "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
    materials = Materials(settings.control, settings.textures, device)
    tell = None if settings.json else _told
    lines = completed(runs, settings.results, partial(run_row, materials=materials), jobs=settings.jobs, tell=tell)
    for line in lines if settings.json else ():
        sys.stdout.write(json.dumps(line) + "\n")
    found = "\n\n".join([tables(lines, FAMILIES), correlations(lines)])
    Console(stderr=settings.json, highlight=False).print(found, markup=False, soft_wrap=True)
    if settings.report is not None:
        settings.report.parent.mkdir(parents=True, exist_ok=True)
        settings.report.write_text(f"# What each choice is worth\n\n{found}\n")
    return 0


@dataclass(frozen=True)
class Materials:
    """What is streamed and what is probed, and where."""

    control: tuple[str, ...]
    textures: Path | None
    device: str


def run_row(run: Run, materials: Materials) -> Line:
    """One run from its random start to its last step: what its result line has beside the fields of the run."""
    if materials.device == "cpu":
        torch.set_num_threads(1)
    cv2.setNumThreads(1)
    row = ROWS[run.row]
    pairs = row.sent(_walk(run.seed, materials.textures, run.pairs, row.dedupe), run.seed)
    config = row.settings(_config(run, len(pairs)))
    learner = Learner(config, torch.device(materials.device))
    controls = _controls(materials, run.seed, PRESETS[run.preset].objective.probe_size)
    curve: list[Line] = [{"step": 0, "cpu_s": 0.0, "gauges": {}, "student": _start(run.preset, run.seed, materials)}]
    due = [round(run.steps * part / PROBES) for part in range(1, PROBES + 1)]
    gauges: dict[str, list[float]] = defaultdict(list)
    cpu_s, rollbacks, resumed_s = 0.0, 0, time.process_time()
    for event in learn(learner, IteratorSource(pairs), clock=time.monotonic):
        if not isinstance(event, StepReport):
            continue
        rollbacks += bool(event.rolled_back)
        for name, value in {"loss": event.loss, **event.gauges}.items():
            gauges[name].append(value)
        if learner.steps < due[0]:
            continue
        cpu_s += time.process_time() - resumed_s
        recent = {name: round(float(np.mean(values[-RECENT:])), 4) for name, values in gauges.items()}
        point = {"step": learner.steps, "cpu_s": round(cpu_s, 3), "gauges": recent}
        curve.append(point | {"student": _probe(_student(learner), controls, materials.device)})
        if not due[1:]:
            break
        del due[0]
        resumed_s = time.process_time()
    return {"sent": len(pairs), "rollbacks": rollbacks, "curve": curve}


def _config(run: Run, sent: int) -> LearnerConfig:
    """The preset, its budget spent over the walk."""
    preset = PRESETS[run.preset]
    # Half a pair less than there are: the last step must not wait for a rounding error.
    pacing = replace(
        preset.pacing, replay_ratio=preset.pacing.batch_size * run.steps / (sent - 0.5), max_owed_steps=10**6
    )
    return replace(preset, seed=run.seed, pacing=pacing)


@lru_cache(maxsize=2)
def _walk(seed: int, textures: Path | None, count: int, dedupe: bool) -> Pairs:
    """What the rig sends of a walk: `count` pairs behind dedupe, or all of as many frames without it."""
    world = SimConfig(seed=seed, textures=textures)
    camera = SimCamera(world)
    if dedupe:
        return list(islice(_sent(camera, DedupeConfig(), seed), count))
    last = _walk(seed, textures, count, True)[-1].header.left_ns
    frames = round((last - world.start_ns) * world.fps / 1e9) + 1
    return list(_sent(islice(camera, frames), DedupeConfig(threshold=1e-9, ring=0), seed))


def _sent(shots: Any, config: DedupeConfig, seed: int) -> Any:
    return capture(shots, Dedupe(config, seed=seed), device="sim", epoch=f"{seed:032x}")


PLACE_SIZE = 96
"""Side in pixels a view of a place is probed at: about the scale that crops are trained at."""

MAX_TRAIN, MAX_TEST = 5000, 2000
"""Images of a control set that are probed, at most: there are many runs."""
PER_PLACE = 50
"""Labelled views of each room, in each half of the places."""


@cache
def _control(spec: str, size: int) -> ControlSet:
    return load_control(spec, size=size, limit_train=MAX_TRAIN, limit_test=MAX_TEST)


@lru_cache(maxsize=1)
def _places(seed: int, textures: Path | None) -> ControlSet:
    """The rooms of the seed's world as two other walks see them."""
    with tempfile.TemporaryDirectory() as folder:
        views = Path(folder) / "places"
        write_control_set(
            views, config=SimConfig(seed=seed, textures=textures), count=30_000, every=3, per_place=PER_PLACE
        )
        return load_control(f"places={views}", size=PLACE_SIZE, limit_train=None, limit_test=None)


def _controls(materials: Materials, seed: int, size: int) -> list[ControlSet]:
    return [*(_control(spec, size) for spec in materials.control), _places(seed, materials.textures)]


@lru_cache(maxsize=1)
def _start(preset: str, seed: int, materials: Materials) -> Line:
    """The probe of the random start, which all rows of a seed share."""
    learner = Learner(replace(PRESETS[preset], seed=seed), torch.device(materials.device))
    controls = _controls(materials, seed, PRESETS[preset].objective.probe_size)
    return _probe(_student(learner), controls, materials.device)


def _student(learner: Learner) -> Encoder:
    return learner.objective.encoders()["student"]


def _probe(encoder: Encoder, controls: Sequence[ControlSet], device: str) -> Line:
    """Accuracies on each set, and rank and spectrum of the features on the first one."""
    found: Line = {}
    for control in controls:
        bank, test = (extract(encoder, images, device=device) for images in (control.train_images, control.test_images))
        labels, truth = control.train_labels, control.test_labels
        found[control.name] = {
            "knn": knn_accuracy(bank, labels, test, truth),
            "linear": linear_accuracy(bank, labels, test, truth),
        }
        if control is controls[0]:
            found["rankme"], found["alpha_req"] = rankme(bank), alpha_req(bank)
    return found


def _told(line: Line) -> str:
    first, last = (line["curve"][index]["student"] for index in (0, -1))
    gains = [
        f"{name} " + " / ".join(f"{100 * (last[name][probe] - first[name][probe]):+.1f}" for probe in ("knn", "linear"))
        for name in last
        if isinstance(last[name], dict)
    ]
    return f"{line['row']}  seed {line['seed']}  {line['curve'][-1]['cpu_s']:.0f} CPU-s  gains: {'  '.join(gains)}"
