"""The main job in two minutes: a simulated rig and a learner, two processes, pairs over TCP between them.

It proves an installation: the pairs come from a walk through the simulated world, the control sets are the digits of
scikit-learn and the places of that world seen on two other walks. The exit code is 0 only where the learner received
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from device.sim.camera import SimConfig
from device.sim.control_set import write_control_set
from learner.errors import LearnerError

PLACES = "places"
DIGITS = "digits"


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """A simulated rig and a learner over TCP; the report of the run at the end."""

    run_dir: Path | None = None
    """Folder of the run; runs/demo-DATE unless given."""
    train_s: float = 100.0
    """Seconds of training, from the first pair."""
    fps: float = 20.0
    """Shots a second of the simulated rig."""
    seed: int = 0
    """Of the world, the walk and the learner."""
    textures: Path | None = None
    """A folder of photographs to hang into the world; procedural pictures without it."""
    per_place: int = 60
    """Labelled views of each room, in each half of the control set."""


def main(arguments: Sequence[str]) -> int:
    """Run the demo; returns 0 where it learned from frames, else 1."""
    settings = tyro.cli(DemoSettings, args=list(arguments), prog="python -m benchmarks demo")
    console = Console(highlight=False)
    run = settings.run_dir or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    with tempfile.TemporaryDirectory() as folder:
        places = Path(folder) / PLACES
        console.print("writing the control set: the same rooms, seen on two other walks")
        config = SimConfig(seed=settings.seed, textures=settings.textures)
        write_control_set(places, config=config, count=20_000, per_place=settings.per_place)
        summary = _train(settings, run, places, console)
    return _tell(summary, run, console)


def _train(settings: DemoSettings, run: Path, places: Path, console: Console) -> dict[str, Any]:
    """Start the rig, let the learner train on it, stop both; the learner's summary."""
    run.parent.mkdir(parents=True, exist_ok=True)
    log = Path(f"{run}.device.log")
    # A terminal's Ctrl-C goes to all three: both processes stop cleanly, and this one lives on to tell how far they came.
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with log.open("w") as file:
        rig = subprocess.Popen([*_python("device"), *_rig_flags(settings)], stderr=file, stdout=file)
    try:
        endpoint = _endpoint(rig, log)
        console.print(f"a simulated rig streams at {endpoint}; a learner trains on it for {settings.train_s:.0f} s")
        learner = subprocess.run([*_python("learner"), *_learner_flags(settings, run, places, endpoint)], check=False)
    finally:
        rig.send_signal(signal.SIGINT)
        stopped = rig.wait(30)
        signal.signal(signal.SIGINT, heard)
    if learner.returncode or stopped:
        raise LearnerError(f"the learner ended with {learner.returncode}, the rig with {stopped}: see above and {log}")
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _rig_flags(settings: DemoSettings) -> list[str]:
    textures = ["--textures", str(settings.textures)] if settings.textures else []
    return [
        *("--camera", "sim", "--bind", "tcp://127.0.0.1:0", "--name", "demo"),
        *("--fps", str(settings.fps), "--seed", str(settings.seed), *textures),
    ]


def _learner_flags(settings: DemoSettings, run: Path, places: Path, endpoint: str) -> list[str]:
    return [
        *("--preset", "cpu", "--connect", endpoint, "--run-dir", str(run), "--http-port", "0"),
        *("--train-s", str(settings.train_s), "--probe-every-s", str(settings.train_s / 3)),
        *("--seed", str(settings.seed), "--control", DIGITS, f"{PLACES}={places}@96"),
    ]


def _endpoint(rig: subprocess.Popen[bytes], log: Path, timeout_s: float = 60.0) -> str:
    """The address the rig says it streams at."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and rig.poll() is None:
        found = re.search(r"bind=(tcp://\S+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    raise LearnerError(f"the rig did not start: see {log}")


def shortcomings(summary: dict[str, Any]) -> list[str]:
    """What speaks against a run having learned from frames; empty where it did."""
    row = summary["probe"].get(PLACES, {})  # a run that was stopped early has none
    before, after = (row.get(when, {}).get("linear_student", math.nan) for when in ("before", "after"))
    checks = {
        "no pair was received": summary["pairs_received"] > 0,
        "no training step was taken": summary["steps"] > 0,
        "the loss is not a number": summary["loss_last"] is not None and summary["loss_last"] == summary["loss_last"],
        "pairs were lost on the way": summary["pairs_lost"] == 0,
        f"places are told apart no better than before ({before:.3f} -> {after:.3f})": after > before,
    }
    return [failure for failure, holds in checks.items() if not holds]


def _tell(summary: dict[str, Any], run: Path, console: Console) -> int:
    failures = shortcomings(summary)
    table = Table("control set", "probe", "before", "after", title="the student's features on labelled images")
    for name, row in summary["probe"].items():
        for probe, title in (("knn", "k-NN"), ("linear", "linear")):
            before, after = (row[when].get(f"{probe}_student", math.nan) for when in ("before", "after"))
            table.add_row(name, title, f"{before:.3f}", f"{after:.3f}")
    console.print(table)
    console.print(f"report: {run / 'report.html'}")
    for failure in failures:
        console.print(f"it did not learn: {failure}")
    if not failures:
        console.print("it learned from what the rig saw")
    return 1 if failures else 0
