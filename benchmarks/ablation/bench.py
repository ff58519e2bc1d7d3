"""What is each choice worth? The preset with one thing changed in each row, on the same walk, for the same number of steps.

Rows of the recipe change the objective, its views or its schedule; rows of the stream take away what the rig adds: dedupe, the
second eye, the guidance by attention, the order of time. Every row of a seed starts with the same weights and is probed in the
same way; differences from the preset are paired by seed. Each run is a line of a file, so a stopped bench continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from benchmarks.ablation.figures import correlations, tables
from benchmarks.ablation.rows import PRESET, RECIPE, ROWS, STREAM, Pairs
from benchmarks.shared import probing
from benchmarks.shared.bench import Bench
from benchmarks.shared.bounds import Count, SomeOf
from benchmarks.shared.pairs import kept_pairs, walk_pairs
from benchmarks.shared.recipes import PRESETS, BabyAgentPreset, spent_over
from benchmarks.shared.results import GridSettings, Result, Seeds, completed, fingerprint, write_report
from device.dedupe import DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from learner.loop import Learner
from learner.networks.encoder import Encoder
from learner.probes.control_sets import ControlSet
from learner.probes.spectrum import alpha_req, rankme

FAMILIES = {"recipe": (PRESET, *RECIPE), "stream": (PRESET, *STREAM)}
PROBE_COUNT = 2
"""Number of probes after the random start; the last one is at the end of the run."""
RECENT_STEPS = 20
"""Number of steps over which a gauge is averaged before it is shown beside a probe."""
MAX_TRAIN, MAX_TEST = 5000, 2000
"""Images of a control set that are probed, at most: there are many runs."""


@dataclass(frozen=True, kw_only=True)
class AblationSettings(GridSettings):
    """Change one setting of the preset in each row, and measure the effect."""

    rows: Annotated[tuple[str, ...], SomeOf((*FAMILIES, *ROWS))] = ("recipe", "stream")
    """`recipe`, `stream`, or rows by their names; the preset itself is always among them."""
    seeds: Seeds = (11, 12, 13)
    pairs: Count = 3000
    """Pairs that dedupe keeps of a walk; `without dedupe` has all pairs of an equally long walk."""
    steps: Count = 300
    """Gradient steps of a run."""
    preset: BabyAgentPreset = "babyagent"
    """The learner's settings, with the objective `babyagent`."""
    control: tuple[str, ...] = ("digits",)
    """Control sets beside the places, as for the learner; the features of the first one give rank and spectrum."""
    place_size: Count = probing.PLACE_SIZE
    """Side in pixels at which places are probed."""
    per_place: Count = 50
    """Labelled views of each room, in each half of the places."""
    results: Path = Path("runs/ablation.jsonl")
    """The file of result lines; runs that are in it are not repeated."""
    report: Path | None = None
    """Write the tables to this file."""
    device: probing.Device = "auto"
    """Where to train; auto takes a GPU if there is one."""

    @property
    def chosen(self) -> list[str]:
        """The rows, without repetition, the preset first."""
        return list(dict.fromkeys([PRESET, *(row for name in self.rows for row in FAMILIES.get(name, (name,)))]))


@dataclass(frozen=True)
class RowRun:
    """One run: a row and a seed. Its result line is found by these fields."""

    row: str
    seed: int
    pairs: int
    steps: int
    preset: str
    control: str
    textures: str
    settings: str
    """Fingerprint of the row's settings."""


def measure(settings: AblationSettings) -> list[Result]:
    """Return the result lines of all runs, after doing the runs that are missing in the file."""
    names = " ".join(spec.split("=")[0] for spec in settings.control)
    size = (settings.pairs, settings.steps, settings.preset, names, settings.textures.name if settings.textures else "")
    prints = {row: fingerprint(ROWS[row].settings(PRESETS[settings.preset])) for row in settings.chosen}
    runs = [RowRun(row, seed, *size, prints[row]) for seed in settings.seeds for row in settings.chosen]
    run = partial(run_row, settings=settings)
    return completed(runs, settings.results, run, jobs=settings.jobs, describe=_describe)


def render(settings: AblationSettings, lines: Sequence[Result]) -> list[str]:
    """Return the tables, and write them to the report too."""
    text = "\n\n".join([tables(lines, FAMILIES), correlations(lines)])
    write_report(settings.report, f"# What each choice is worth\n\n{text}")
    return [f"{text}\n"]


COMMAND = Bench(AblationSettings, measure, render, json_lines=list)


def run_row(run: RowRun, settings: AblationSettings) -> Result:
    """Train one run from its random start to its last step; return what its result line has beside the fields of the run."""
    device = probing.compute_device(settings.device)
    probing.use_one_thread(device)
    row = ROWS[run.row]
    pairs = row.sent(sent_pairs(run.seed, settings.textures, run.pairs, row.dedupe), run.seed)
    preset = replace(PRESETS[run.preset], seed=run.seed)
    learner = Learner(row.settings(spent_over(preset, run.steps, len(pairs))), device)
    curve: list[Result] = [{"step": 0, "cpu_s": 0.0, "gauges": {}, "student": _probe_start(run.seed, settings)}]
    log = probing.StepLog()
    for cpu_s in probing.train_to(learner, pairs, probing.evenly(run.steps, PROBE_COUNT), log.add):
        point = {"step": learner.steps, "cpu_s": round(cpu_s, 3), "gauges": log.means(RECENT_STEPS)}
        curve.append(point | {"student": _probe(probing.student_of(learner), run.seed, settings)})
    return {"sent": len(pairs), "rollbacks": log.rollbacks, "curve": curve}


@lru_cache(maxsize=2)
def sent_pairs(seed: int, textures: Path | None, count: int, dedupe: bool) -> Pairs:
    """Return the pairs of a walk that the rig sends.

    With dedupe there are `count` pairs; without it, all frames of a walk of the same length.
    """
    world = SimConfig(seed=seed, textures=textures)
    if dedupe:
        return list(islice(walk_pairs(world), count))
    last = sent_pairs(seed, textures, count, True)[-1].header.left_ns
    frames = round((last - world.start_ns) * world.fps / 1e9) + 1
    every = DedupeConfig(threshold=1e-9, ring=0)
    return list(kept_pairs(islice(SimCamera(world), frames), seed=seed, dedupe=every))


def _controls(seed: int, settings: AblationSettings) -> list[ControlSet]:
    """Return the control sets that the flag names, then the places of the seed's world."""
    size = PRESETS[settings.preset].crops.probe_size
    world = SimConfig(seed=seed, textures=settings.textures)
    places = probing.places_of(world, size=settings.place_size, per_place=settings.per_place)
    return [*(probing.control_set(spec, size, MAX_TRAIN, MAX_TEST) for spec in settings.control), places]


@lru_cache(maxsize=1)
def _probe_start(seed: int, settings: AblationSettings) -> Result:
    """Probe the random start, which all rows of a seed share."""
    learner = Learner(replace(PRESETS[settings.preset], seed=seed), probing.compute_device(settings.device))
    return _probe(probing.student_of(learner), seed, settings)


def _probe(encoder: Encoder, seed: int, settings: AblationSettings) -> Result:
    """Return the accuracies on each control set, and the rank and spectrum of the features on the first set."""
    found: dict[str, Any] = {}
    controls = _controls(seed, settings)
    for control in controls:
        bank, test = probing.features_of(encoder, control, probing.compute_device(settings.device))
        found[control.name] = probing.accuracies(control, bank, test)
        if control is controls[0]:
            found["rankme"], found["alpha_req"] = rankme(bank), alpha_req(bank)
    return found


def _describe(line: Result) -> str:
    first, last = (line["curve"][index]["student"] for index in (0, -1))
    gains = [
        f"{name} " + " / ".join(f"{100 * (last[name][probe] - first[name][probe]):+.1f}" for probe in ("knn", "linear"))
        for name in last
        if isinstance(last[name], dict)
    ]
    return f"{line['row']}  seed {line['seed']}  {line['curve'][-1]['cpu_s']:.0f} CPU-s  gains: {'  '.join(gains)}"
