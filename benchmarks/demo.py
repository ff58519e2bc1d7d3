"""The whole system in about four minutes: a simulated rig and a learner, in two processes, with pairs over TCP between them.

It proves an installation: the pairs come from a walk through the simulated world, the control sets are the digits of
scikit-learn and the places of that world seen on two other walks. The exit code is 0 only if the learner received
pairs, trained on them, and its features tell the places apart better than at their random start.
"""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from benchmarks.shared.bench import Bench, BenchSettings, Goal, figure_table, report_progress
from benchmarks.shared.machine import HOST, free_port
from device.sim.camera import SimConfig
from device.sim.control_set import write_control_set
from learner.errors import Failed
from learner.http.access import page_address

PLACES = "places"
DIGITS = "digits"
START_S = 60.0
FEW_STEPS = 50
"""A run of fewer steps is named as too short, where it has not learned."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings(BenchSettings):
    """Run a simulated rig and a learner over TCP, and write the report of the run."""

    run_dir: Path | None = None
    """Folder of the run; runs/demo-DATE unless given."""
    train_s: float = 100.0
    """Seconds of training, from the first pair. Probes are not counted."""
    fps: float = 20.0
    """Shots a second of the simulated rig."""
    size: str | None = None
    """Width and height of its images, for example 160x120; the rig's default unless given."""
    seed: int = 0
    """Seed of the world, the walk and the learner."""
    textures: Path | None = None
    """A folder of photographs to hang into the world; procedural pictures without it."""
    per_place: int = 40
    """Labelled views of each room, in each half of the control set."""


def measure(settings: DemoSettings) -> dict[str, Any]:
    """Run both processes; return the learner's summary, with the path of the report and the address of the page that it had."""
    run = settings.run_dir or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    with tempfile.TemporaryDirectory() as folder:
        places = Path(folder) / PLACES
        report_progress("1 of 3: painting a control set, the same rooms seen on two other walks (half a minute)")
        config = SimConfig(seed=settings.seed, textures=settings.textures)
        write_control_set(places, config=config, count=20_000, per_place=settings.per_place)
        port = free_port()
        summary = _train(settings, run, places, port)
        return summary | {"report": str(run / "report.html"), "page": page_address(HOST, port)}


def render(_settings: DemoSettings, summary: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield the probes, the path of the report, and whether it learned."""
    rows = {}
    for name, row in summary["probe"].items():
        for probe, title in (("knn", "k-NN"), ("linear", "linear")):
            values = (row[when].get(f"{probe}_student", math.nan) for when in ("before", "after"))
            rows[f"{name}, {title}"] = [f"{value:.3f}" for value in values]
    yield figure_table("the student's features on labelled images", ("control set and probe", "before", "after"), rows)
    yield f"report: {summary['report']}\npage: it was at {summary['page']} while the learner ran\n"
    failures = shortcomings(summary)
    yield "".join(f"it did not learn: {failure}\n" for failure in failures) or "it learned from what the rig saw\n"


def goals(summary: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goal: the run has no shortcoming."""
    yield Goal("shortcomings", len(shortcomings(summary)), 0)


COMMAND = Bench(DemoSettings, measure, render, goals)


def shortcomings(summary: dict[str, Any]) -> list[str]:
    """Return the reasons why a run cannot have learned from images; empty if there are none."""
    row = summary["probe"].get(PLACES, {})  # a run that was stopped early has none
    before, after = (row.get(when, {}).get("linear_student", math.nan) for when in ("before", "after"))
    steps = summary["steps"]
    hint = f" in only {steps} steps: a busy machine needs longer, `make demo SECONDS_OF_TRAINING=300`"
    few = hint if steps < FEW_STEPS else ""
    checks = {
        "no pair was received": summary["pairs_received"] > 0,
        "no training step was taken": steps > 0,
        "the loss is not a number": summary["loss_last"] is not None and summary["loss_last"] == summary["loss_last"],
        "pairs were lost on the way": summary["pairs_lost"] == 0,
        f"places are told apart no better than before ({before:.3f} -> {after:.3f}){few}": after > before,
    }
    return [failure for failure, holds in checks.items() if not holds]


def _train(settings: DemoSettings, run: Path, places: Path, port: int) -> dict[str, Any]:
    """Start the rig, let the learner train on its pairs, and stop both; return the learner's summary."""
    run.parent.mkdir(parents=True, exist_ok=True)
    log = Path(f"{run}.device.log")
    # Ctrl-C on a terminal reaches all three processes. The other two stop cleanly; this one continues and reports.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with log.open("w") as file:
        rig = subprocess.Popen(_rig_command(settings), stderr=file, stdout=file)
    try:
        endpoint = _endpoint(rig, log)
        report_progress(
            f"2 of 3: a simulated rig streams at {endpoint}; a learner trains on it for {settings.train_s:.0f} s"
        )
        report_progress(f"watch it at {page_address(HOST, port)}")
        report_progress(
            "3 of 3, before and after it: probes, then rotated images, pictures and report (about a minute)"
        )
        command = _learner_command(settings, run, places, endpoint, port)
        learner = subprocess.run(command, stdout=sys.stderr if settings.json else None, check=False)
    finally:
        rig.send_signal(signal.SIGINT)
        stopped = rig.wait(30)
        signal.signal(signal.SIGINT, handler)
    if learner.returncode or stopped:
        raise Failed(f"the learner ended with {learner.returncode}, the rig with {stopped}: see above and {log}")
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def _rig_command(settings: DemoSettings) -> list[str]:
    return [
        *(sys.executable, "-m", "device", "--camera", "sim", "--bind", "tcp://127.0.0.1:0", "--name", "demo"),
        *("--fps", str(settings.fps), "--seed", str(settings.seed)),
        *(("--textures", str(settings.textures)) if settings.textures else ()),
        *(("--size", settings.size) if settings.size else ()),
    ]


def _learner_command(settings: DemoSettings, run: Path, places: Path, endpoint: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "learner", "--preset", "cpu", "--connect", endpoint, "--run-dir", str(run)),
        *("--http-port", str(port), "--train-s", str(settings.train_s), "--probe-every-s", str(settings.train_s / 3)),
        *("--seed", str(settings.seed), "--control", DIGITS, f"{PLACES}={places}@96"),
    ]


def _endpoint(rig: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address at which the rig streams, which is read from the log of the rig."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and rig.poll() is None:
        found = re.search(r"bind=(tcp://\S+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    raise Failed(f"the rig did not start: see {log}")
