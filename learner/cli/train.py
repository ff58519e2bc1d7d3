"""`python -m learner` trains on a source until it ends, a limit is reached or Ctrl-C is pressed; then it commits and reports."""

from __future__ import annotations

import os

from learner.cli.settings import FROM_WORDS, TrainSettings
from learner.cli.sources import source_opener
from learner.distributed.collectives import process_group, process_of
from learner.distributed.team import follow
from learner.http.access import page_address
from learner.runs.settings import require_same
from stream.host.command import Command
from stream.host.program import ExitCode, Result, Stop

DESCRIPTION = """Learn from the stereo pairs of devices, recordings, folders and cameras.

  python -m learner --preset cpu --connect tcp://127.0.0.1:5555 --run-dir runs/first
  python -m learner --preset gpu --connect tcp://RIG:5555 --run-dir runs/rig --device cuda
  python -m learner --preset cpu --replay walk.mcap --run-dir runs/again       the same pairs give the same weights
  python -m learner --preset cpu --source dir:LEFT,RIGHT --run-dir runs/here    folders, films, sim, cameras: without a rig
  python -m learner --objective simclr --views multi --help      what can be set; --objective package.module:Class is yours
  python -m learner --objective ntxent+mae --preset cpu --source sim --run-dir runs/both     two at once (docs/objectives.md)
  python -m learner --encoder.weights dinov2_vits14.pth --adapt lora --run-dir runs/dino     adapt weights (docs/adapting.md)
  python -m learner --fork runs/first --schedule.learning-rate 1e-4 --run-dir runs/second     start from another run
  python -m learner --config /etc/babyagent/learner.toml       all settings in a file, explained in deploy/learner.toml
  python -m learner doctor --connect tcp://RIG:5555   check rigs, keys, GPU, disk and clock, and print what to do
  python -m learner report runs/first        write the report of a run again, or compare several runs
  python -m learner export runs/first        write its newest good weights as ONNX too
  python -m learner runs                     list the runs: how far, how good, which are at work
  python -m learner cooldown runs/first      export better weights from a short branch, without changing the run
  torchrun --nproc-per-node 8 -m learner ...       the same on 8 GPUs, with the same total batch and memory

Ctrl-C stops with a last commit, probe and report; pressed again, without probe and report. The same command continues from the
last commit, also after a crash: no pair is lost or learned twice.
The learner waits for a device that is not there yet.
Exit codes: 0 done, 1 failed on the way (too few pairs for a step, loss not finite, collapse, disk full, run directory in use),
2 wrong settings.
Tab completes flags after: source <(python -m learner --print-completion bash), or zsh."""


def run(settings: TrainSettings, stop: Stop) -> Result:
    """Train, and return the summary. Of the processes that torchrun starts the first one does so, and the others follow it."""
    from learner.cli.compose import (  # --help and wrong settings do without page and store
        device_for,
        make_learner,
        train,
    )
    from learner.service.summary import describe

    process = process_of(os.environ)
    device = device_for(settings.process.device, process)
    if (settings.process.run_dir / "config.json").is_file():  # before networks of these settings are made
        require_same(settings.process.run_dir, settings.learner)
    with process_group(process, device=device):
        learner = make_learner(settings, device, process)
        if process.number:
            follow(learner.team.member)
            return Result()
        summary = train(settings, learner, stop)
    its = settings.process
    page = page_address(its.http_host, its.http_port)
    reported = bool(summary.pop("report"))  # the rest is what summary.json has
    text = describe(summary, its.run_dir, page, reported=reported)
    if summary["problem"]:
        return Result(f"{text}\nerror: {summary['problem']}", summary, ExitCode.FAILED)
    return Result(text, summary)


COMMAND = Command(
    run=run, description=DESCRIPTION, early=lambda settings: source_opener(settings.process), **FROM_WORDS
)
