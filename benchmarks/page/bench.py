"""What does somebody who watches the live page cost training? Stretches with and without a watcher, taking turns in one run.

The watcher is a process of its own that asks as a browser does, every two seconds for what is new. What the training thread
itself gives away, the time from a step's report until it may go on, is told apart from what both share: the interpreter
and the cores.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import cv2
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.page.watcher import watch
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from learner.config import PRESETS
from learner.loop import Learner, StepReport, learn
from learner.page import view
from learner.page.access import Access
from learner.page.app import app_for
from learner.page.live import WATCHED_S, Live
from learner.page.server import served
from learner.runs.folder import RunDirectory
from stream.pair import EncodedPair
from stream.source import IteratorSource

MAX_SHARE = 0.005
"""Of the time, that a watcher may cost the training thread."""
WALK = 64
"""Pairs that are rendered before, and given over and over."""


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """Measure what the live page costs, watched and not."""

    preset: str = "cpu"
    """The learner's settings."""
    batch_size: int | None = None
    """Pairs in a step; None is the preset's. Small ones make more steps in a short run."""
    stretches: int = 5
    """Of each kind; they take turns."""
    stretch_s: float = 10.0
    """Least length of one."""
    threads: int = 1
    """Torch's."""
    seed: int = 0
    """Of the world and the learner."""
    json: bool = False
    """One JSON object instead of the table."""


@dataclass(frozen=True)
class Stretch:
    """Some seconds of training. busy: receiving and steps; handing_over: what the page then takes of the training thread."""

    watched: bool
    steps: int
    busy_s: float
    handing_over_s: float
    wall_s: float
    cpu_s: float
    """Of the whole process, the drawing in the server's threads included."""


def main(arguments: Sequence[str]) -> int:
    """Measure and tell; returns 1 where the training thread gave away more than MAX_SHARE of its time."""
    settings = tyro.cli(PageSettings, args=list(arguments), prog="python -m benchmarks page")
    if settings.preset not in PRESETS or settings.stretches < 1 or not settings.stretch_s > 0 or settings.threads < 1:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}; stretches, stretch-s and threads above 0")
    figures = summarise(list(_stretches(settings)))
    if settings.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        table = Table("what", "value", title=f"preset {settings.preset}, {settings.stretches} stretches of each kind")
        for name, value in figures.items():
            table.add_row(name.replace("_", " "), f"{value:.5g}")
        Console(highlight=False).print(table)
    return int(figures["handing_over_share"] > MAX_SHARE)


def summarise(stretches: Sequence[Stretch]) -> dict[str, float]:
    """Shares of the watched time, and seconds a step: medians of stretches, and their ratio, watched to not."""
    watched, alone = ([each for each in stretches if each.watched is kind] for kind in (True, False))
    step_s = {
        name: statistics.median(each.busy_s / each.steps for each in kind)
        for name, kind in (("watched", watched), ("alone", alone))
    }
    pairs = zip(watched, alone, strict=True)
    cpu_s = {
        name: sum(each.cpu_s for each in kind) / sum(each.steps for each in kind)
        for name, kind in (("watched", watched), ("alone", alone))
    }
    ratios = sorted(one.busy_s / one.steps / (other.busy_s / other.steps) for one, other in pairs)
    return {
        "handing_over_share": sum(each.handing_over_s for each in watched) / sum(each.wall_s for each in watched),
        "handing_over_share_alone": sum(each.handing_over_s for each in alone) / sum(each.wall_s for each in alone),
        "busy_s_a_step_watched": step_s["watched"],
        "busy_s_a_step_alone": step_s["alone"],
        "ratio_of_busy_s": step_s["watched"] / step_s["alone"],
        "min_ratio_of_neighbours": ratios[0],
        "greatest_ratio_of_neighbours": ratios[-1],
        "cpu_s_a_step_watched": cpu_s["watched"],
        "cpu_s_a_step_alone": cpu_s["alone"],
        "ratio_of_cpu_s": cpu_s["watched"] / cpu_s["alone"],
        "steps": sum(each.steps for each in stretches),
    }


def _stretches(settings: PageSettings) -> Iterator[Stretch]:
    """By turns alone and watched; what comes right after a turn is left out."""
    settle_s = min(WATCHED_S + 1, settings.stretch_s)
    cv2.setNumThreads(1)
    torch.set_num_threads(settings.threads)
    config = dataclasses.replace(PRESETS[settings.preset], seed=settings.seed)
    if settings.batch_size is not None:
        config = dataclasses.replace(config, pacing=dataclasses.replace(config.pacing, batch_size=settings.batch_size))
    learner = Learner(config, torch.device("cpu"))
    live = Live(learner, time.monotonic)
    context = multiprocessing.get_context("spawn")
    looks = context.Event()
    with tempfile.TemporaryDirectory() as folder:
        directory, access = RunDirectory(Path(folder), config), Access("127.0.0.1", _free_port())
        with served(app_for(access, view.routes(live, directory.path)), access):
            watcher = context.Process(target=watch, args=(access.port, looks), daemon=True)
            watcher.start()
            events = learn(learner, IteratorSource(_pairs(settings.seed)), clock=time.monotonic, keep=_keeping(live))
            for number in range(2 * settings.stretches):
                watched = bool(number % 2)
                looks.set() if watched else looks.clear()
                # Until it is forgotten that somebody looked, or as long until drawing goes on as it will.
                _stretch(settle_s, live, directory, events, watched=watched)
                stretch = _stretch(settings.stretch_s, live, directory, events, watched=watched)
                _say(settings, stretch)
                yield stretch
            watcher.kill()
            watcher.join()


def _stretch(min_s: float, live: Live, directory: RunDirectory, events: Iterator[object], *, watched: bool) -> Stretch:
    """Steps for at least so long, observed as the service does."""
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
    return Stretch(watched, steps, busy_s, handing_over_s, wall_s, cpu_s)


def _pairs(seed: int) -> Iterator[EncodedPair]:
    """The simulated walk over and over: rendering is the rig's work, so it is done before."""
    rig = capture(SimCamera(SimConfig(seed=seed)), Dedupe(DedupeConfig(), seed=seed), device="sim", epoch="0" * 32)
    walk = list(islice(rig, WALK))
    for number in count():
        yield walk[number % len(walk)]


def _keeping(live: Live) -> Callable[[int, EncodedPair], None]:
    return lambda _key, pair: live.received(pair)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _say(settings: PageSettings, stretch: Stretch) -> None:
    if not settings.json:
        kind = "watched" if stretch.watched else "alone"
        sys.stdout.write(
            f"{time.strftime('%H:%M:%S')}  {kind:7}  {stretch.steps} steps  {stretch.busy_s / stretch.steps:.4f} s a step"
            f"  handed over {1e3 * stretch.handing_over_s:.1f} ms\n"
        )
        sys.stdout.flush()
