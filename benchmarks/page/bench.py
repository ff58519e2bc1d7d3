"""How much slower is training while somebody watches the live page? Times with and without a watcher alternate in one run.

The watcher is a process of its own that requests the new sections every two seconds, as a browser does. Two costs are reported:
the time that the page takes from the training thread, from a step's report until training continues, and the cost of sharing the
interpreter and the cores.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import cv2
import torch
from rich.table import Table

from benchmarks.page.watcher import watch
from benchmarks.shared.bench import Bench, BenchSettings, Goal, name_value_table, report_progress
from benchmarks.shared.bounds import Count, Positive, Within
from benchmarks.shared.machine import HOST, free_port
from benchmarks.shared.pairs import walk_pairs
from benchmarks.shared.recipes import PRESETS, Preset, changed
from device.sim.camera import SimConfig
from learner.http.access import Access
from learner.http.app import app_for
from learner.http.server import served
from learner.loop import Learner, StepReport, learn
from learner.page import view
from learner.page.live import WATCHED_S, Live
from learner.runs.folder import RunDirectory
from stream.source import IteratorSource

MAX_SHARE = 0.005
"""Largest share of the time that a watcher may take from the training thread."""
WALK_PAIRS = 64
"""Number of pairs that are rendered beforehand, because rendering is the rig's work, and sent again and again."""


@dataclass(frozen=True, kw_only=True)
class PageSettings(BenchSettings):
    """Measure the cost of the live page, with and without a watcher."""

    preset: Preset = "cpu"
    """The learner's settings."""
    batch_size: Annotated[int | None, Within(1)] = None
    """Pairs in a step; None takes the preset's. Small batches make more steps in a short run."""
    stretches: Count = 5
    """Number of periods of each kind; both kinds alternate."""
    stretch_s: Positive = 10.0
    """Shortest length of a period."""
    threads: Count = 1
    """Number of threads of torch."""
    seed: int = 0
    """Seed of the world and the learner."""


@dataclass(frozen=True)
class Period:
    """Some seconds of training. busy: seconds of receiving and steps. handing_over: seconds that the page takes from training."""

    watched: bool
    steps: int
    busy_s: float
    handing_over_s: float
    wall_s: float
    cpu_s: float
    """CPU seconds of the whole process, including the drawing in the server's threads."""


def measure(settings: PageSettings) -> dict[str, float]:
    """Run all periods and return their figures."""
    return summarise(list(_periods(settings)))


def render(settings: PageSettings, figures: dict[str, float]) -> list[Table]:
    """Return one table of the figures."""
    named = {name.replace("_", " "): value for name, value in figures.items()}
    return [name_value_table(f"preset {settings.preset}, {settings.stretches} periods of each kind", named)]


def goals(figures: dict[str, float]) -> Iterator[Goal]:
    """Yield the goal: the page takes little time from the training thread."""
    yield Goal("share of the time handed over", figures["handing_over_share"], MAX_SHARE)


COMMAND = Bench(PageSettings, measure, render, goals)


def summarise(periods: Sequence[Period]) -> dict[str, float]:
    """Return shares of the time while watched, and seconds per step: medians over the periods, and watched / not watched."""
    kinds = {
        name: [each for each in periods if each.watched is kind] for name, kind in (("watched", True), ("alone", False))
    }
    step_s = {name: [each.busy_s / each.steps for each in kind] for name, kind in kinds.items()}
    cpu_s = {name: sum(each.cpu_s for each in kind) / sum(each.steps for each in kind) for name, kind in kinds.items()}
    share = {
        name: sum(each.handing_over_s for each in kind) / sum(each.wall_s for each in kind)
        for name, kind in kinds.items()
    }
    median_s = {name: statistics.median(found) for name, found in step_s.items()}
    ratios = sorted(one / other for one, other in zip(step_s["watched"], step_s["alone"], strict=True))
    return {
        "handing_over_share": share["watched"],
        "handing_over_share_alone": share["alone"],
        "busy_s_a_step_watched": median_s["watched"],
        "busy_s_a_step_alone": median_s["alone"],
        "ratio_of_busy_s": median_s["watched"] / median_s["alone"],
        "min_ratio_of_neighbours": ratios[0],
        "greatest_ratio_of_neighbours": ratios[-1],
        "cpu_s_a_step_watched": cpu_s["watched"],
        "cpu_s_a_step_alone": cpu_s["alone"],
        "ratio_of_cpu_s": cpu_s["watched"] / cpu_s["alone"],
        "steps": sum(each.steps for each in periods),
    }


def _periods(settings: PageSettings) -> Iterator[Period]:
    """Yield the periods, without and with a watcher in turns; the time right after a change is left out."""
    settle_s = min(WATCHED_S + 1, settings.stretch_s)
    cv2.setNumThreads(1)
    torch.set_num_threads(settings.threads)
    config = changed(PRESETS[settings.preset], {"seed": settings.seed, "pacing.batch_size": settings.batch_size})
    learner = Learner(config, torch.device("cpu"))
    live = Live(learner, time.monotonic)
    pairs = cycle(list(islice(walk_pairs(SimConfig(seed=settings.seed)), WALK_PAIRS)))
    context = multiprocessing.get_context("spawn")
    watching = context.Event()
    with tempfile.TemporaryDirectory() as folder:
        directory, access = RunDirectory(Path(folder), config), Access(HOST, free_port())
        with served(app_for(access, view.routes(live, directory.path)), access):
            watcher = context.Process(target=watch, args=(access.port, watching), daemon=True)
            watcher.start()
            source = IteratorSource(pairs)
            events = learn(learner, source, clock=time.monotonic, keep=lambda _key, pair: live.received(pair))
            for number in range(2 * settings.stretches):
                watched = bool(number % 2)
                watching.set() if watched else watching.clear()
                # Until the page has forgotten the last watcher, or until drawing has become steady.
                _train(settle_s, live, directory, events, watched=watched)
                period = _train(settings.stretch_s, live, directory, events, watched=watched)
                kind = "watched" if watched else "alone"
                spent = f"{period.busy_s / period.steps:.4f} s a step  handed over {1e3 * period.handing_over_s:.1f} ms"
                report_progress(f"{kind:7}  {period.steps} steps  {spent}")
                yield period
            watcher.kill()
            watcher.join()


def _train(min_s: float, live: Live, directory: RunDirectory, events: Iterator[object], *, watched: bool) -> Period:
    """Train for at least `min_s` seconds, with the live page as its observer as in the service; return the period."""
    steps, busy_s, handing_over_s = 0, 0.0, 0.0
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    while steps == 0 or time.monotonic() - began_s < min_s:
        event = next(events)
        if not isinstance(event, StepReport):
            continue
        reported_s = time.monotonic()
        live.alive(lambda: "training")
        live.observe(event)
        handing_over_s += time.monotonic() - reported_s
        directory.append("steps", {"step": event.step, "loss": event.loss, **event.gauges})
        steps, busy_s = steps + 1, busy_s + event.busy_s
    wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    return Period(watched, steps, busy_s, handing_over_s, wall_s, cpu_s)
