"""What does a training step cost, what does the learner add to it, and how do others' steps compare? Same model, same crops.

Rows, which take turns in each round:
  bare           our step on one batch that lies on the device: views, forward, backward, optimiser, EMA, and nothing else
  live           the learner, fed by a rig in another process over TCP: receive, decode, store, draw, gather, step, score
  from views     `bare` without making its views: only what the peers' rows of that kind do, too
  dino, lightly  their step from views at rest; `with views`: with their augmentation, image by image, as their users have it

`overhead` is what a step of `live` takes beyond `bare`, without the time it waits for pairs. `speedup` compares whole steps,
from decoded images to changed weights: `dino with views` / `bare`, on as many threads; a peer may hide its augmentation on
other cores, which ours leaves free. `speedup_from_views` is `dino` / `from views`. Ratios are of one round, medians over rounds.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.step.live import LiveLearner
from benchmarks.step.peers import PEERS, absent
from benchmarks.step.rows import BARE, FROM_VIEWS, WITH_VIEWS, peak_mib, resting_steps, timed
from learner.config import PRESETS, LearnerConfig
from learner.errors import SettingsError

MAX_OVERHEAD = 0.02
MIN_SPEEDUP = {"cpu": 1.3, "cuda": 2.0}
MAX_LATENCY_S = {"p50": 0.25, "p99": 1.0}
LIVE = "live"

Row = Callable[[int], float]
"""Takes so many steps and returns the seconds of one."""


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Time our step, the learner on a live stream, and others' steps."""

    preset: Literal["cpu", "babyagent"] = "cpu"
    """Backbone, crops, batch and precision, ours and the peers'."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    batch_size: int | None = None
    """Instead of the preset's: DeiT-S with 128 pairs takes a CPU minutes a step."""
    rounds: int = 7
    """Rounds in which every row is timed once."""
    steps: int = 6
    """Steps of a row in a round."""
    threads: int = 1
    """Torch's threads on the CPU; the rig and the receiving thread need a core of their own."""
    pairs_per_s: float = 30.0
    """Of the live stream."""
    size: tuple[int, int] = (240, 320)
    """Height and width of an image, pixels."""
    json: bool = False
    """One JSON object instead of the tables; progress goes to the standard error."""


def main(arguments: Sequence[str]) -> int:
    """Measure; returns 0 where all goals are reached, else 1."""
    settings = tyro.cli(StepSettings, args=list(arguments), prog="python -m benchmarks step")
    if min(settings.rounds, settings.steps, settings.threads, *settings.size) < 1 or not settings.pairs_per_s > 0:
        raise ValueError("--rounds, --steps, --threads and --size must be at least 1, --pairs-per-s above 0")
    cv2.setNumThreads(1)
    torch.set_num_threads(settings.threads)
    figures = measure(settings, _config(settings), _device(settings.device))
    figures["missed"] = missed(figures)
    _show(figures, settings)
    return 1 if figures["missed"] else 0


def measure(settings: StepSettings, config: LearnerConfig, device: torch.device) -> dict[str, Any]:
    """All figures of a run but the goals it missed."""
    left_out = absent()
    peers = [name for name in PEERS if name not in left_out]
    for name, why in left_out.items():
        _say(f"{name} is left out: {why}")
    peaks = _peaks(settings, config, device, peers)
    steps = resting_steps(config, device, peers, settings.size)
    rows: dict[str, Row] = {name: partial(timed, step, device) for name, step in steps.items()}
    with (
        tempfile.TemporaryDirectory(prefix="step-") as folder,
        LiveLearner(config, device, Path(folder), pairs_per_s=settings.pairs_per_s, size=settings.size) as live,
    ):
        rows[LIVE] = lambda count: statistics.fmean(report.busy_s for report in live.steps(count))
        seconds = _rounds(rows, settings, live)
        figures = {
            "device": _named(device),
            "preset": settings.preset,
            "batch_size": config.pacing.batch_size,
            "precision": config.precision,
            "threads": settings.threads,
            "rounds": settings.rounds,
            "pairs_per_s": round(config.pacing.batch_size / statistics.median(seconds[LIVE]), 1),
            **compared(seconds, peers),
            "step_s": {name: round(statistics.median(found), 5) for name, found in seconds.items()},
            "latency_s": _latency(live.latencies_s),
            "batch_due_every_s": round(config.pacing.batch_size / config.pacing.replay_ratio / settings.pairs_per_s, 3),
            "pairs_lost": live.source.stats().lost,
        }
        _say("where the time of a live step goes, and what a probe and a commit take")
        return figures | {
            "seconds_in_a_step": {name: round(took_s, 5) for name, took_s in live.profile(settings.steps).items()},
            "pauses": {name: round(share, 4) for name, share in live.pauses().items()},
            "peak_mib": peaks,
            "left_out": left_out,
        }


def compared(seconds: Mapping[str, Sequence[float]], peers: Sequence[str]) -> dict[str, Any]:
    """Ratios of rows within a round: their medians, and the least and the largest as `spread`."""

    def ratios(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]

    found = {"overhead": [ratio - 1 for ratio in ratios(LIVE, BARE)]}
    found |= {f"speedup.{peer}": ratios(peer + WITH_VIEWS, BARE) for peer in peers}
    found |= {f"speedup_from_views.{peer}": ratios(peer, FROM_VIEWS) for peer in peers}
    medians = {name: round(statistics.median(each), 4) for name, each in found.items()}
    return {
        "overhead": medians["overhead"],
        "speedup": {peer: medians[f"speedup.{peer}"] for peer in peers},
        "speedup_from_views": {peer: medians[f"speedup_from_views.{peer}"] for peer in peers},
        "spread": {name: [round(min(each), 4), round(max(each), 4)] for name, each in found.items()},
    }


def missed(figures: Mapping[str, Any]) -> list[str]:
    """The goals that these figures do not reach."""
    least = MIN_SPEEDUP["cpu" if figures["device"].startswith("cpu") else "cuda"]
    reached = {"overhead": figures["overhead"] <= MAX_OVERHEAD}
    reached |= {f"speedup.{peer}": ratio >= least for peer, ratio in figures["speedup"].items()}
    reached |= {f"latency_s.{name}": figures["latency_s"][name] <= most for name, most in MAX_LATENCY_S.items()}
    return [name for name, holds in reached.items() if not holds]


def _config(settings: StepSettings) -> LearnerConfig:
    config = PRESETS[settings.preset]
    if settings.batch_size is None:
        return config
    return dataclasses.replace(config, pacing=dataclasses.replace(config.pacing, batch_size=settings.batch_size))


def _device(name: str) -> torch.device:
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise SettingsError("--device cuda was asked for, but torch finds no GPU here")
    return torch.device("cuda" if present and name != "cpu" else "cpu")


def _peaks(
    settings: StepSettings, config: LearnerConfig, device: torch.device, peers: Sequence[str]
) -> dict[str, float]:
    """Peak memory of each kind of step, each in a process of its own."""
    _say("peak memory, each kind of step in a process of its own")
    found = {}
    for name in (BARE, *(peer + WITH_VIEWS for peer in peers)):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            task = pool.submit(peak_mib, config, device.type, name, settings.size, settings.threads)
            found[name] = round(task.result(), 1)
    return found


def _rounds(rows: Mapping[str, Row], settings: StepSettings, live: LiveLearner) -> dict[str, list[float]]:
    """Seconds of a step of each row, one number a round, behind a first one that does not count."""
    _say("filling the memory of the live learner, and a first step of each row")
    for row in rows.values():
        row(1)
    live.latencies_s.clear()
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(settings.rounds):
        for name, row in rows.items():
            seconds[name].append(row(settings.steps))
        last = "  ".join(f"{name} {1e3 * found[-1]:.0f}" for name, found in seconds.items())
        _say(f"round {number + 1} of {settings.rounds}, ms a step: {last}")
    return seconds


def _latency(latencies_s: Sequence[float]) -> dict[str, float]:
    return {name: round(float(np.quantile(latencies_s, share)), 3) for name, share in (("p50", 0.5), ("p99", 0.99))}


def _named(device: torch.device) -> str:
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _show(figures: Mapping[str, Any], settings: StepSettings) -> None:
    if settings.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    console = Console(highlight=False)
    title = f"{figures['device']}, preset {settings.preset}, {figures['batch_size']} pairs, {figures['precision']}"
    table = Table("step", "ms, median", "peak MiB", title=title)
    for name, step_s in figures["step_s"].items():
        table.add_row(name, f"{1e3 * step_s:.1f}", str(figures["peak_mib"].get(name, "")))
    console.print(table)
    table = Table("ratio", "median", "least", "largest")
    flat = {"overhead": figures["overhead"]}
    for kind in ("speedup", "speedup_from_views"):
        flat |= {f"{kind}.{peer}": ratio for peer, ratio in figures[kind].items()}
    for name, ratio in flat.items():
        table.add_row(name, f"{ratio:.3f}", *(f"{end:.3f}" for end in figures["spread"][name]))
    console.print(table)
    table = Table("of a live step", "ms")
    for name, took_s in figures["seconds_in_a_step"].items():
        table.add_row(name, f"{1e3 * took_s:.2f}")
    console.print(table)
    pauses = ", ".join(f"{name} {100 * share:.2f} %" for name, share in figures["pauses"].items())
    latency = figures["latency_s"]
    console.print(f"training stops for: {pauses} of the time")
    console.print(
        f"from the rig to the end of its first step: p50 {latency['p50']} s, p99 {latency['p99']} s; "
        f"a batch is due every {figures['batch_due_every_s']} s; {figures['pairs_lost']} pairs lost"
    )
    console.print(f"missed: {', '.join(figures['missed']) or 'nothing'}")
