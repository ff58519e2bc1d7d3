"""`python -m learner`: receive pairs, train, show. Parses, builds, drives; everything else is elsewhere."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import torch
import tyro
from prometheus_client import CollectorRegistry
from rich.console import Console

from learner.config import PRESETS, LearnerConfig
from learner.control import ControlSet, load_control
from learner.errors import LearnerError, NonFiniteLoss
from learner.loop import Learner
from learner.metrics import LearnerMetrics, serve_metrics
from learner.report import write_report
from learner.rundir import RunDirectory
from learner.screen import Screen
from learner.service import Limits, Service
from stream.errors import StreamError
from stream.subscriber import Subscriber

DESCRIPTION = """Learn from the stereo pairs that a device publishes.

  python -m learner --preset cpu --connect tcp://127.0.0.1:5555 --run-dir runs/first
  python -m learner --preset babyagent --connect tcp://RIG:5555 --run-dir runs/rig --device cuda
  python -m learner report runs/first        build the report of a run again

Ctrl-C commits and stops; the same command goes on from the last commit. A device that is not there yet is waited for.
Exit codes: 0 done, 1 training failed (loss not finite), 2 wrong settings."""


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """Where pairs come from and what this process does beside training; none of it decides the weights."""

    connect: tuple[str, ...] = ("tcp://127.0.0.1:5555",)
    """Addresses of the devices."""
    run_dir: Path = Path("runs/learner")
    """Folder of the run: settings, checkpoints, weights, report."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    threads: int = max(1, (os.cpu_count() or 2) - 1)
    """Torch's threads on the CPU: one core is left to receiving, since two busy thread pools slow each other five times."""
    control: tuple[str, ...] = ("digits",)
    """Labelled sets to probe on, never trained on: digits, a folder per class, MNIST's or CIFAR's files. NAME=PATH
    names one, PATH@SIZE shows its images at that side in pixels (else the teacher's crop size)."""
    insecure: bool = False
    """Trust devices across the network although streams have no keys yet."""
    control_limit: int | None = None
    """Most images of each half of a control set, balanced over its classes."""
    until_device_ends: bool = False
    """Stop when every device has said that its stream is over, instead of waiting for more."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)
    metrics_port: int = 9632
    """Port of /metrics on the loopback; 0 serves none."""
    json: bool = False
    """Print nothing but the summary, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings: `process` and, from the preset, `learner`."""

    process: Annotated[ProcessConfig, tyro.conf.arg(name="")]
    learner: Annotated[LearnerConfig, tyro.conf.arg(name="")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    try:
        if words and not words[0].startswith("-"):
            sys.exit(_command(words[0], words[1:]))
        sys.exit(_learn(parse(words)))
    except NonFiniteLoss as error:
        _fail(error, 1)
    except (LearnerError, StreamError) as error:
        _fail(error, 2)


def parse(words: Sequence[str]) -> Settings:
    """Flags to settings; `--preset NAME` chooses the defaults of the others."""
    name, rest = _preset(list(words))
    default = Settings(process=ProcessConfig(), learner=PRESETS[name])
    description = f"{DESCRIPTION}\n\n--preset {{{','.join(PRESETS)}}} (now {name}) sets the defaults below."
    return tyro.cli(Settings, args=rest, default=default, description=description, prog="python -m learner")


def _preset(words: list[str]) -> tuple[str, list[str]]:
    for index, word in enumerate(words):
        if word == "--preset" or word.startswith("--preset="):
            name = word.partition("=")[2] or (words[index + 1] if index + 1 < len(words) else "")
            if name not in PRESETS:
                raise LearnerError(f"--preset must be one of {', '.join(PRESETS)}, got {name!r}")
            return name, words[:index] + words[index + (1 if "=" in word else 2) :]
    return "cpu", words


def _command(name: str, words: Sequence[str]) -> int:
    if name != "report" or not words:
        raise LearnerError(
            f"there is no command {name!r} with {len(words)} arguments: use `report RUN`, or flags to train"
        )
    for run in words:
        print(write_report(Path(run)))
    return 0


def _learn(settings: Settings) -> int:
    process = settings.process
    cv2.setNumThreads(1)  # images are small: OpenCV's pool would only compete with torch's
    torch.set_num_threads(process.threads)
    learner = Learner(settings.learner, _device(process.device))
    controls = _controls(process, settings.learner)
    directory = RunDirectory(process.run_dir, settings.learner)
    registry = CollectorRegistry()
    if process.metrics_port:
        serve_metrics(registry, process.metrics_port)
    screen = Screen(Console(), time.monotonic, quiet=process.json)
    screen.say(f"settings in {directory.path / 'config.json'}; learning on {learner.device}, {process.threads} threads")
    source = Subscriber(process.connect, end_on_bye=process.until_device_ends, insecure=process.insecure)
    try:
        service = Service(
            learner,
            source,
            directory,
            controls,
            limits=process.limits,
            metrics=LearnerMetrics(registry),
            screen=screen,
            clock=time.monotonic,
            stop=_stop_on_signals().is_set,
        )
        summary = service.run()
    finally:
        source.close()
        screen.close()
    report = write_report(directory.path)
    if process.json:
        print(json.dumps(summary))
    else:
        _print_summary(summary)
        print(f"report: {report}")
    return 0


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _controls(process: ProcessConfig, config: LearnerConfig) -> list[ControlSet]:
    limit = process.control_limit
    sets = []
    for word in process.control:
        spec, at, size = word.rpartition("@")
        if not (at and size.isdecimal()):
            spec, size = word, str(config.objective.teacher_size)
        sets.append(load_control(spec, size=int(size), limit_train=limit, limit_test=limit, seed=config.seed))
    return sets


def _stop_on_signals() -> threading.Event:
    """The first Ctrl-C or SIGTERM asks for a clean stop; a second Ctrl-C is Python's own."""
    stop = threading.Event()

    def ask(number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return stop


def _print_summary(summary: dict[str, Any]) -> None:
    for name in (
        "pairs_received",
        "pairs_suppressed",
        "pairs_lost",
        "steps",
        "samples_per_s",
        "loss_first",
        "loss_last",
    ):
        print(f"{name:18} {summary[name]}")
    for control, row in summary["probe"].items():
        for kind, before in row["before"].items():
            print(f"{control:12} {kind:18} {before:.3f} -> {row['after'][kind]:.3f}")


def _fail(error: Exception, code: int) -> None:
    print(f"learner: {error}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
