"""What does a training step cost, what does the learner add to it, and how do other implementations compare?

Rows, which take turns in each round:
  bare           our step on one batch that lies on the device: views, forward, backward, optimiser, EMA, and nothing else
  live           the learner, fed by a rig in another process over TCP: receive, decode, store, draw, gather, step, score
  from views     `bare` without making its views: only what the peers' rows of that kind do, too
  dino, lightly  their step on ready views; `with views`: with their augmentation, image by image, as users run it

`overhead` is the time of a step of `live` beyond `bare`, without the time it waits for pairs. `speedup` compares whole steps,
from decoded images to changed weights: `dino with views` / `bare`, on as many threads; a peer may run its augmentation on
other cores, which ours leaves free. `speedup_from_views` is `dino` / `from views`. Ratios are of one round, medians over rounds.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from rich.console import RenderableType

from benchmarks.shared.bench import Bench, Goal, RoundsSettings, figure_table, in_turns, medians, report_progress
from benchmarks.shared.bounds import Count, Positive, Within
from benchmarks.shared.machine import not_installed
from benchmarks.shared.probing import Device, compute_device
from benchmarks.shared.processes import in_own_process
from benchmarks.shared.recipes import changed
from benchmarks.step.bare import timed
from benchmarks.step.live import LiveLearner
from benchmarks.step.peers import PEERS
from benchmarks.step.rows import BARE, FROM_VIEWS, WITH_VIEWS, peak_mib, resting_steps
from learner.config import LearnerConfig, preset
from learner.objectives.babyagent import BabyAgent

MAX_OVERHEAD = 0.02
MIN_SPEEDUP = {"cpu": 1.3, "cuda": 2.0}
MAX_LATENCY_S = {"p50": 0.25, "p99": 1.0}
LIVE = "live"


@dataclass(frozen=True, kw_only=True)
class StepSettings(RoundsSettings):
    """Measure our step, the learner on a live stream, and the steps of other implementations."""

    preset: Literal["cpu", "gpu"] = "cpu"
    """Preset that gives backbone, crops, batch and precision, for our step and the peers'."""
    device: Device = "auto"
    """Where to train; auto takes a GPU if there is one."""
    batch_size: Annotated[int | None, Within(1)] = None
    """Batch size, instead of the preset's: a CPU takes minutes for a step of DeiT-S with 128 pairs."""
    rounds: Count = 7
    """Rounds in which every row is timed once."""
    steps: Count = 6
    """Steps of a row in a round."""
    threads: Count = 1
    """Number of threads of torch on the CPU; the rig and the receiving thread need a core of their own."""
    pairs_per_s: Positive = 30.0
    """Pairs per second of the live stream."""
    size: Annotated[tuple[int, int], Within(1)] = (240, 320)
    """Height and width of an image, pixels."""

    @property
    def config(self) -> LearnerConfig:
        """The preset with the batch size of the settings, and with the objective that the peers compute too."""
        return changed(preset(self.preset, BabyAgent), {"pacing.batch_size": self.batch_size})


def measure(settings: StepSettings) -> dict[str, Any]:
    """Run all rows; return the figures, and the names of the goals that were missed."""
    config, device = settings.config, compute_device(settings.device)
    cv2.setNumThreads(1)
    torch.set_num_threads(settings.threads)
    left_out = not_installed({"lightly": "lightly"})
    for name, why in left_out.items():
        report_progress(f"{name} is left out: {why}")
    peers = [name for name in PEERS if name not in left_out]
    peaks = _peaks(settings, peers)
    steps = resting_steps(config, device, peers, settings.size)
    rows: dict[str, Callable[[int], float]] = {name: partial(timed, step, device) for name, step in steps.items()}
    with (
        tempfile.TemporaryDirectory(prefix="step-") as folder,
        closing(LiveLearner(config, device, Path(folder), settings.pairs_per_s, settings.size)) as live,
    ):
        rows[LIVE] = lambda count: statistics.fmean(report.busy_s for report in live.steps(count))
        report_progress("filling the memory of the live learner, and a first step of each row")
        for row in rows.values():
            row(1)
        live.latencies_s.clear()
        seconds = in_turns({name: partial(row, settings.steps) for name, row in rows.items()}, settings.rounds)
        figures = {
            "device": f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu",
            "preset": settings.preset,
            "batch_size": config.pacing.batch_size,
            "precision": config.precision,
            "threads": settings.threads,
            "rounds": settings.rounds,
            "pairs_per_s": round(config.pacing.batch_size / statistics.median(seconds[LIVE]), 1),
            **compared(seconds, peers),
            "step_s": medians(seconds, 5),
            "latency_s": _percentiles(live.latencies_s),
            "batch_due_every_s": round(config.pacing.batch_size / config.pacing.replay_ratio / settings.pairs_per_s, 3),
            "pairs_lost": live.source.stats().lost,
        }
        report_progress("where the time of a live step goes, and how long a probe and a commit take")
        figures |= {
            "seconds_in_a_step": {name: round(spent_s, 5) for name, spent_s in live.profile(settings.steps).items()},
            "pauses": {name: round(share, 4) for name, share in live.pauses().items()},
            "peak_mib": peaks,
            "left_out": left_out,
        }
    return figures | {"missed": [goal.name for goal in goals_of(figures) if not goal.met]}


def render(_settings: StepSettings, figures: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield tables of the steps, of the ratios, and of the parts of a live step."""
    title = f"{figures['device']}, preset {figures['preset']}, {figures['batch_size']} pairs, {figures['precision']}"
    steps = {
        name: (f"{1e3 * step_s:.1f}", figures["peak_mib"].get(name, "")) for name, step_s in figures["step_s"].items()
    }
    yield figure_table(title, ("step", "ms, median", "peak MiB"), steps)
    ratios = {name: [f"{value:.3f}" for value in (ratio, *figures["spread"][name])] for name, ratio in _ratios(figures)}
    yield figure_table("", ("ratio", "median", "least", "largest"), ratios)
    parts = {name: [f"{1e3 * spent_s:.2f}"] for name, spent_s in figures["seconds_in_a_step"].items()}
    yield figure_table("", ("of a live step", "ms"), parts)
    pauses = ", ".join(f"{name} {100 * share:.2f} %" for name, share in figures["pauses"].items())
    latency = figures["latency_s"]
    yield (
        f"training stops for: {pauses} of the time\n"
        f"from the rig to the end of its first step: p50 {latency['p50']} s, p99 {latency['p99']} s; "
        f"a batch is due every {figures['batch_due_every_s']} s; {figures['pairs_lost']} pairs lost\n"
    )


def goals_of(figures: Mapping[str, Any]) -> Iterator[Goal]:
    """Yield the goals: little overhead, steps faster than the peers', and a short way from the rig to the first gradient."""
    least = MIN_SPEEDUP["cpu" if figures["device"].startswith("cpu") else "cuda"]
    yield Goal("overhead", figures["overhead"], MAX_OVERHEAD)
    for peer, ratio in figures["speedup"].items():
        yield Goal(f"speedup.{peer}", ratio, least, at_least=True)
    for name, most_s in MAX_LATENCY_S.items():
        yield Goal(f"latency_s.{name}", figures["latency_s"][name], most_s)


COMMAND = Bench(StepSettings, measure, render, goals_of)


def compared(seconds: Mapping[str, Sequence[float]], peers: Sequence[str]) -> dict[str, Any]:
    """Return the ratios of rows within a round: the medians, and the lowest and the highest as `spread`."""

    def ratios(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]

    found = {"overhead": [ratio - 1 for ratio in ratios(LIVE, BARE)]}
    found |= {f"speedup.{peer}": ratios(peer + WITH_VIEWS, BARE) for peer in peers}
    found |= {f"speedup_from_views.{peer}": ratios(peer, FROM_VIEWS) for peer in peers}
    middle = medians(found, 4)
    return {
        "overhead": middle["overhead"],
        "speedup": {peer: middle[f"speedup.{peer}"] for peer in peers},
        "speedup_from_views": {peer: middle[f"speedup_from_views.{peer}"] for peer in peers},
        "spread": {name: [round(min(each), 4), round(max(each), 4)] for name, each in found.items()},
    }


def _ratios(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the ratios, with the names that they have in `spread`."""
    yield "overhead", figures["overhead"]
    for kind in ("speedup", "speedup_from_views"):
        yield from ((f"{kind}.{peer}", ratio) for peer, ratio in figures[kind].items())


def _peaks(settings: StepSettings, peers: Sequence[str]) -> dict[str, float]:
    """Return the peak memory in MiB of each kind of step. Each is measured in a process of its own."""
    report_progress("peak memory, each kind of step in a process of its own")
    device = compute_device(settings.device).type
    return {
        name: round(in_own_process(peak_mib, settings.config, device, name, settings.size, settings.threads), 1)
        for name in (BARE, *(peer + WITH_VIEWS for peer in peers))
    }


def _percentiles(latencies_s: Sequence[float]) -> dict[str, float]:
    return {name: round(float(np.quantile(latencies_s, share)), 3) for name, share in (("p50", 0.5), ("p99", 0.99))}
