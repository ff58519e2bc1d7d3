"""The learner's command line: parses, builds, drives; everything else is elsewhere.

Everything that can be refused is made or checked before the run directory, so that a wrong setting leaves nothing behind. The
source comes last: it is told which learner this is, and where the last commit stood.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import cv2
import torch
import tyro
from rich.console import Console
from starlette.routing import BaseRoute

from buffer.store import Store
from learner.cli import cooldown, export, report
from learner.config import PRESETS, LearnerConfig
from learner.distributed import collectives
from learner.distributed.collectives import World, joined, world_of
from learner.errors import LearnerError, SettingsError
from learner.follower import follow
from learner.footprint import free_bytes, require_room
from learner.loop import Learner
from learner.metrics import LearnerMetrics, MemoryMetrics
from learner.page import health, view, weights
from learner.page import metrics as exposition
from learner.page.access import access_for
from learner.page.app import app_for
from learner.page.live import Live
from learner.page.server import served
from learner.probes.control_sets import ControlSet, load_control
from learner.report.html import number
from learner.report.report import write_report
from learner.runs.commit import Committer, restore
from learner.runs.folder import EXPORT, RunDirectory
from learner.service.observers import Observers
from learner.service.screen import Screen, log_to
from learner.service.service import Service
from learner.service.summary import Summary
from learner.service.timing import Limits
from learner.weights.publish import Outlet
from stream.host import completion
from stream.host.settings_file import SettingsFile, config_of
from stream.host.systemd import Supervisor
from stream.live.metrics import StreamMetrics
from stream.live.subscriber import Subscriber
from stream.pair import MAX_SIDE
from stream.recording.source import RecordingSource
from stream.source import Cursor, Source
from stream.transport.endpoint import connect_address, security_for
from stream.transport.security import Security

DESCRIPTION = """Learn from the stereo pairs that a device publishes.

  python -m learner --preset cpu --connect tcp://127.0.0.1:5555 --run-dir runs/first
  python -m learner --preset babyagent --connect tcp://RIG:5555 --run-dir runs/rig --device cuda
  python -m learner --preset cpu --replay walk.mcap --run-dir runs/again       the same pairs give the same weights
  python -m learner --config /etc/babyagent/learner.toml         all settings in a file, as deploy/learner.toml explains them
  python -m learner doctor --connect tcp://RIG:5555   looks at rigs, keys, GPU, disk, clock and says what to do
  python -m learner report runs/first        build the report of a run again; of several runs: compare them
  python -m learner export runs/first        its newest good weights as ONNX too
  python -m learner cooldown runs/first      export weights that have settled, from a branch that leaves the run as it is
  torchrun --nproc-per-node 8 -m learner ...       the same on 8 GPUs, with as large a batch and memory in all

Ctrl-C commits and stops; the same command goes on from the last commit, also after a crash: no pair is lost or learned twice.
A device that is not there yet is waited for.
Exit codes: 0 done, 1 failed on the way (loss not finite, collapse, disk full, run directory in use), 2 wrong settings.
Tab completes flags after: source <(babyagent-learner --print-completion bash), or zsh."""


FULL_DISK_S = 10.0
"""How often a full disk is tried again."""


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """Where pairs come from and what this process does beside training; none of it decides the weights."""

    config: Path | None = None
    """A TOML file with any of these settings and `preset`, as in deploy/learner.toml; a flag wins over it."""
    connect: tuple[str, ...] = ("tcp://127.0.0.1:5555",)
    """Addresses of the devices."""
    replay: tuple[Path, ...] = ()
    """Recordings to learn from instead, one after the other."""
    replay_speed: float = 0.0
    """Speed of the replay, 1 as it was recorded; 0 gives each pair when the learner is ready for it."""
    run_dir: Path = Path("runs/learner")
    """Folder of the run: settings, pairs, commits, weights, report."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    threads: int | None = None
    """Torch's threads on the CPU. None takes all cores but one, shared among the processes of the machine: one is left to
    receiving, since two busy thread pools slow each other five times."""
    control: tuple[str, ...] = ("digits",)
    """Labelled sets to probe on, never trained on: digits, a folder per class, MNIST's or CIFAR's files. NAME=PATH
    names one, PATH@SIZE shows its images at that side in pixels (else the teacher's crop size)."""
    keys: Path | None = None
    """Folder of the keys (`python -m stream keys` makes them). Across the network they are needed, and looked for in the
    usual place; on the loopback they are used where this is given."""
    insecure: bool = False
    """Do without keys: trust whoever answers, let anybody on the way see the images."""
    control_limit: int | None = None
    """Most images of each half of a control set, balanced over its classes."""
    until_device_ends: bool = False
    """Stop when every device has said that its stream is over, instead of waiting for more."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)
    http_port: int = 9632
    """Port of the live page, /metrics for Prometheus, /weights for robots, /healthz and /readyz; 0 serves none of them.
    One that is taken is tried again every 10 s: until then whoever has it answers, so give each learner its own."""
    http_host: str = "127.0.0.1"
    """Address they are served on; 0.0.0.0 is every one of this machine, for which --http-token is needed."""
    http_token: Path | None = None
    """File with the token that a browser is asked for and a program gives as `Authorization: Bearer`; it is not encrypted."""
    json: bool = False
    """Print nothing but the summary, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings: `process` and, from the preset, `learner`."""

    process: Annotated[ProcessConfig, tyro.conf.arg(name="")]
    learner: Annotated[LearnerConfig, tyro.conf.arg(name="")]


def run(words: Sequence[str], stop: Callable[[], bool]) -> str:
    """Run the command of these words until it is done or `stop`; returns what is to be said at the end.

    Of the processes that torchrun starts, the first does so, the others follow it and have nothing to say.

    Raises Failed for what failed on the way, another LearnerError or a StreamError for what cannot be used.
    """
    if (shell := completion.shell_of(words)) is not None:
        return _completion(shell)
    if words and not words[0].startswith("-"):
        return _other(words[0], words[1:], stop)
    settings = parse(words)
    world = world_of(os.environ)
    device = _device(settings.process.device, world)
    with joined(world, device=device):
        if world.rank:
            follow(_learner(settings, device, world))
            return ""
        summary = _learn(settings, stop, _learner(settings, device, world))
    return json.dumps(summary) if settings.process.json else _said(summary, settings.process.run_dir)


def _completion(shell: str) -> str:
    settings = Settings(process=ProcessConfig(), learner=PRESETS["cpu"])
    flags: dict[str, Sequence[str]] = {"--preset": list(PRESETS), **completion.options(settings)}
    commands: dict[str, completion.Options] = {
        "": flags,
        "doctor": flags,
        "report": completion.options(report.ReportSettings),
        "export": completion.options(export.ExportSettings),
        "cooldown": completion.options(cooldown.CooldownSettings),
    }
    return completion.script(shell, "babyagent-learner", commands)


def parse(words: Sequence[str], *, prog: str = "python -m learner", description: str = DESCRIPTION) -> Settings:
    """Flags to settings, over the file that they name; `--preset NAME` chooses the defaults of the others."""
    name, rest = _preset(list(words))
    config = config_of(rest)
    file = None if config is None else SettingsFile.read(config)
    if name is None:
        name = "cpu" if file is None else file.choice("preset", PRESETS, "cpu")
    default = Settings(process=ProcessConfig(), learner=PRESETS[name])
    if file is not None:
        try:
            default = file.over(default, inline=("process", "learner", "limits"), other_keys=("preset",))
        except (LearnerError, ValueError) as error:
            raise SettingsError(f"{config}: {error}") from error
    presets = f"--preset {{{','.join(PRESETS)}}} (now {name}) sets the defaults below."
    return tyro.cli(Settings, args=rest, default=default, description=f"{description}\n\n{presets}", prog=prog)


def _preset(words: list[str]) -> tuple[str | None, list[str]]:
    """The preset that the words name, if they do, and the words without it."""
    for index, word in enumerate(words):
        if word == "--preset" or word.startswith("--preset="):
            name = word.partition("=")[2] or (words[index + 1] if index + 1 < len(words) else "")
            if name not in PRESETS:
                raise SettingsError(f"--preset must be one of {', '.join(PRESETS)}, got {name!r}")
            return name, words[:index] + words[index + (1 if "=" in word else 2) :]
    return None, words


def _other(command: str, words: Sequence[str], stop: Callable[[], bool]) -> str:
    """Run a command that is not training."""
    if command in ("cooldown", "export", "report"):
        collectives.require_alone(command)
    if command == "cooldown":
        return cooldown.run(words, stop)
    if command == "export":
        return export.run(words)
    if command == "report":
        return report.run(words)
    raise SettingsError(
        f"there is no command {command!r}: use `report RUN`, `export RUN`, `cooldown RUN`, `doctor`, or flags to train "
        "(--help lists them)"
    )


def _learn(settings: Settings, stop: Callable[[], bool], learner: Learner) -> Summary:
    process = settings.process
    console = Console(stderr=process.json)
    log_to(console)
    with ExitStack() as stack:
        stack.callback(learner.crew.dismiss)
        open_source = _origin(process)
        metrics = LearnerMetrics(meanings=learner.objective.meanings)
        live = Live(learner, time.monotonic)
        access = access_for(process.http_host, process.http_port, process.http_token)
        stack.enter_context(served(app_for(access, _routes(process.run_dir, live, metrics)), access))
        controls = _controls(process, learner, stop)
        directory = RunDirectory(process.run_dir, settings.learner)
        stack.enter_context(directory.locked())
        metrics.disk_free.set_function(lambda: shutil.disk_usage(directory.path).free)
        screen = stack.enter_context(closing(Screen(console, time.monotonic, quiet=process.json)))
        screen.say(
            f"learning on {learner.device}{_shared()} with {torch.get_num_threads()} threads, "
            f"settings in {directory.path / 'config.json'}"
        )
        screen.doing("reading the last commit")
        store = stack.enter_context(Store(directory.store, patience_s=FULL_DISK_S))
        cursor = restore(learner, store, directory.checkpoints)
        source = stack.enter_context(closing(_opened(open_source, store.identity, cursor)))
        metrics.registry.register(MemoryMetrics(learner))
        metrics.registry.register(StreamMetrics(source.stats, source.backlog))
        outlet = Outlet(learner, directory.export, metrics=metrics)
        committer = Committer(
            learner,
            source,
            store,
            directory.checkpoints,
            clock=time.monotonic,
            metrics=metrics,
            publish=outlet.offer,
        )
        service = Service(
            learner,
            source,
            directory,
            controls,
            committer=stack.enter_context(committer),
            outlet=outlet,
            limits=process.limits,
            observers=Observers(
                source=source,
                screen=screen,
                live=live,
                supervisor=stack.enter_context(closing(Supervisor(os.environ, time.monotonic))),
                metrics=metrics,
            ),
            clock=time.monotonic,
            stop=stop,
        )
        try:
            summary = service.run()
        except torch.OutOfMemoryError as error:
            batch = settings.learner.pacing.batch_size
            raise SettingsError(
                f"{learner.device} has too little memory for a batch of {batch}: "
                "lower --pacing.batch-size, and choose another --run-dir"
            ) from error
        screen.doing("writing the report")
        write_report(directory.path)
    return summary


def _routes(run_dir: Path, live: Live, metrics: LearnerMetrics) -> list[BaseRoute]:
    """All that the learner's port answers."""
    return [
        *view.routes(live, run_dir),
        *exposition.routes(metrics.registry),
        *health.routes(live.pulse),
        *weights.routes(run_dir / EXPORT),
    ]


OpenSource = Callable[[str, Cursor | None], Source]
"""Opens the source for the learner of this name, behind this cursor."""


def _origin(process: ProcessConfig) -> OpenSource:
    """Where pairs come from; raises StreamError or SettingsError for what could never be opened, and opens nothing yet."""
    if not process.replay:
        security = security_for(process.connect, keys=process.keys, insecure=process.insecure)
        for endpoint in process.connect:
            connect_address(endpoint, security=security, insecure=process.insecure)
        return partial(_subscriber, process, security)
    if process.connect != ProcessConfig.connect:
        raise SettingsError("--connect and --replay are two sources: give one of them")
    try:
        RecordingSource(process.replay, speed=process.replay_speed).close()
    except ValueError as error:
        raise SettingsError(f"--replay-speed: {error}") from error
    return lambda _name, cursor: RecordingSource(process.replay, cursor=cursor, speed=process.replay_speed)


def _subscriber(process: ProcessConfig, security: Security | None, name: str, cursor: Cursor | None) -> Subscriber:
    return Subscriber(
        process.connect,
        consumer=name,
        cursor=cursor,
        end_on_bye=process.until_device_ends,
        security=security,
        insecure=process.insecure,
    )


def _opened(open_source: OpenSource, name: str, cursor: Cursor | None) -> Source:
    try:
        return open_source(name, cursor)
    except ValueError as error:
        raise SettingsError(
            f"the run's last commit was made on another kind of source ({error}): choose another --run-dir"
        ) from error


def _shared() -> str:
    return f" in {collectives.count()} processes" if collectives.count() > 1 else ""


def _learner(settings: Settings, device: torch.device, world: World) -> Learner:
    cores = len(os.sched_getaffinity(0))
    threads = settings.process.threads
    if threads is None:
        threads = max(1, (cores - 1) // world.local_count)
    if threads < 1:
        raise SettingsError(f"--threads must be at least 1, got {threads}")
    cv2.setNumThreads(1)  # images are small: OpenCV's pool would only compete with torch's
    torch.set_num_threads(threads)
    try:
        learner = Learner(settings.learner, device)
    except ValueError as error:  # a part that knows nothing of our errors refused its settings
        raise SettingsError(str(error)) from error
    sharers = world.local_count if device.type == "cpu" else 1
    require_room(learner, collectives.told(free_bytes(device) // sharers))  # one number, so that all refuse or none
    return learner


def _device(name: str, world: World) -> torch.device:
    """Each process of a machine has a GPU of its own. Raises SettingsError where there are too few."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if world.count == 1 or not torch.cuda.is_available():
        return torch.device("cuda")
    if world.local_count > torch.cuda.device_count():
        raise SettingsError(
            f"{world.local_count} processes need as many GPUs, torch finds {torch.cuda.device_count()}: "
            "lower --nproc-per-node, or use --device cpu"
        )
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)
    return device


def _controls(process: ProcessConfig, learner: Learner, stop: Callable[[], bool]) -> list[ControlSet]:
    """The control sets, of which a `stop` leaves out the rest."""
    limit, config = process.control_limit, learner.config
    patch = learner.objective.encoders()["student"].patch_size
    sets: list[ControlSet] = []
    for word in process.control:
        if stop():
            break
        spec, at, size = word.rpartition("@")
        if not (at and size.isdecimal()):
            spec, size = word, str(config.objective.probe_size)
        if not 0 < int(size) <= MAX_SIDE or int(size) % patch:
            raise SettingsError(f"--control {word}: its images' side must be a multiple of the patch size {patch}")
        control = load_control(spec, size=int(size), limit_train=limit, limit_test=limit, seed=config.seed)
        if control.name in {other.name for other in sets}:
            raise SettingsError(f"--control {word}: there is another set of the name {control.name}: write NAME=PATH")
        sets.append(control)
    return sets


def _said(summary: Summary, run_dir: Path) -> str:
    """The summary as a person reads it."""
    lines = [f"{name.replace('_', ' '):18} {number(summary[name])}" for name in _SHOWN]
    if summary["probe"]:
        lines.append(f"{'probed at steps':18} {' -> '.join(str(step) for step in summary['probed_steps'])}")
    for control, row in summary["probe"].items():
        for kind, before in row["before"].items():
            after = f"{row['after'][kind]:.3f}" if kind in row["after"] else "not measured again"
            lines.append(f"{control:18} {kind.replace('_', ' '):18} {before:.3f} -> {after}")
    return "\n".join([*lines, f"report: {run_dir / 'report.html'}"])


_SHOWN = (
    "pairs_received",
    "pairs_suppressed",
    "pairs_lost",
    "steps",
    "rollbacks",
    "samples_per_s",
    "loss_first",
    "loss_last",
)
