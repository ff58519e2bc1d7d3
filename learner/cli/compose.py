"""Composes the parts of a training process: learner, control sets, HTTP server, run directory, source and service.

Settings are checked before the run directory is made, so that a wrong one leaves nothing behind. The source is opened last,
since it needs the name of this learner and the cursor of the last commit.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import cv2
import torch
from rich.console import Console
from starlette.routing import BaseRoute

from buffer.patience import Patience
from buffer.store import Store
from learner.cli.settings import ProcessConfig, TrainSettings
from learner.cli.sources import OpenSource, origin_of, source_opener
from learner.config import PRESETS
from learner.distributed import collectives
from learner.distributed.collectives import Process
from learner.errors import SettingsError
from learner.footprint import free_bytes, require_room
from learner.http import monitoring, weights
from learner.http.access import access_for, page_address
from learner.http.app import app_for
from learner.http.server import served
from learner.loop import Learner
from learner.metrics import LearnerMetrics, MemoryMetrics
from learner.objectives.labels import LabelsConfig
from learner.objectives.sums import parts_of
from learner.page import view
from learner.page.guide import Guide
from learner.page.live import Live
from learner.pretrained.start import Start
from learner.probes.control_sets import ControlSet, load_control
from learner.probes.unseen import unseen
from learner.report.report import write_report
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import Committer, pack
from learner.runs.events import EventFiles
from learner.runs.folder import EXPORT, RunDirectory, name_of
from learner.runs.fork import Fork, Keep
from learner.runs.restore import restore
from learner.runs.start import RANDOM, START_WEIGHTS, read_start, start_notes, write_start
from learner.service.observers import Observers
from learner.service.screen import Screen, log_to
from learner.service.service import Service
from learner.service.summary import Summary
from learner.weights.export import write_weights
from learner.weights.latest import LatestWeights
from stream.host.home import expanded
from stream.host.program import Stop
from stream.host.systemd import Supervisor
from stream.image import MAX_SIDE
from stream.live.metrics import StreamMetrics
from stream.source import Source
from stream.transport.endpoint import security_for

FULL_DISK_S = 10.0
"""Time between two attempts to write to a full disk."""


def train(settings: TrainSettings, learner: Learner, stop: Stop) -> Summary:
    """Train until the source ends, a limit is reached or `stop` is set; write the report and return the summary.

    A stop that is hurried leaves out the last probe, the pictures and the report.

    Raises LearnerError or StreamError for settings that cannot work and for a run that failed, OSError for a full disk.
    """
    process, clock = settings.process, time.monotonic
    console = Console(stderr=process.json)
    log_to(console)
    with ExitStack() as stack:
        stack.callback(learner.team.dismiss)
        open_source = source_opener(process)
        metrics = LearnerMetrics(meanings=learner.trainer.meanings)
        live = Live(learner, clock)
        access = access_for(process.http_host, process.http_port, process.http_token)
        is_served = stack.enter_context(served(app_for(access, _routes(process, live, metrics)), access))
        controls = _load_controls(process, learner, stop.is_set)
        is_new = not (process.run_dir / "config.json").is_file()
        begun = _begin(learner) if is_new else None  # before there is a folder: wrong weights leave none behind
        directory = _run_directory(stack, settings, metrics)
        screen = stack.enter_context(Screen(console, quiet=process.json, clock=clock))
        _introduce(screen, learner, directory)
        _warn_of_repeats(screen, settings)
        if address := page_address(access.host, access.port):
            screen.log(f"page: {address}{'' if is_served else ', once the port is free'}")
        screen.show("reading the last commit")
        latest_weights = LatestWeights(learner, directory.export, metrics=metrics, hands_out_worse=process.export_worse)
        source, committer = _resume(stack, learner, directory, open_source, latest_weights, metrics, begun)
        latest_weights.start = _told_start(screen, directory, learner)
        supervisor = stack.enter_context(closing(Supervisor(os.environ, clock)))
        service = Service(
            learner=learner,
            source=source,
            directory=directory,
            controls=controls,
            committer=committer,
            latest_weights=latest_weights,
            observers=Observers(source=source, screen=screen, live=live, supervisor=supervisor, metrics=metrics),
            limits=process.limits,
            clock=clock,
            stop=stop.is_set,
            hurry=stop.is_hurried,
            optional=stop.optional,
        )
        summary = _run(service)
        written = stop.optional(lambda: write_report(directory.path))
        summary["report"] = "" if written is None else str(written)
    return summary


def _run_directory(stack: ExitStack, settings: TrainSettings, metrics: LearnerMetrics) -> RunDirectory:
    """Return the run directory, made if it is missing, and locked until the stack is closed."""
    directory = RunDirectory(settings.process.run_dir, settings.learner)
    stack.enter_context(directory.locked())
    stack.callback(directory.discard_if_not_begun)
    if settings.process.tensorboard:
        directory.also = EventFiles(directory.path / "events").write
    metrics.disk_free.set_function(lambda: shutil.disk_usage(directory.path).free)
    return directory


def _introduce(screen: Screen, learner: Learner, directory: RunDirectory) -> None:
    """Say with what a run learns, and where its settings are."""
    sharing = f" in {collectives.count()} processes" if collectives.count() > 1 else ""
    screen.log(
        f"learning on {learner.device}{sharing} with {torch.get_num_threads()} threads, "
        f"settings in {directory.path / 'config.json'}"
    )
    if learner.device.type == "cpu" and learner.config.encoder == PRESETS["gpu"].encoder:
        screen.log(
            "warning: the encoder of preset gpu is slow without a GPU: --preset cpu, in another --run-dir, is for this"
        )


def _warn_of_repeats(screen: Screen, settings: TrainSettings) -> None:
    """Say that the stream's probe flatters where pictures come again."""
    its = settings.process
    if settings.learner.holdout and (its.repeat is True or its.repeat > 1):
        screen.log(
            "warning: pairs that are held out come again with --repeat and are trained on then: the figures of the stream's "
            "probe are too good; --holdout 0 leaves it out"
        )


def _told_start(screen: Screen, directory: RunDirectory, learner: Learner) -> Start:
    """Return what the run started from; say it where that is not random, and warn where it may soon be forgotten."""
    start = read_start(directory.path)
    for note in start_notes(start) if start != RANDOM else ():
        screen.log(note)
    if start.get("from") == "weights" and learner.config.adapt.changes_nothing:
        screen.log(
            f"warning: all its weights train at a rate of {learner.config.schedule.learning_rate:g}, which may destroy what they "
            "know: --adapt lora, last or full, in another --run-dir, holds them (docs/adapting.md)"
        )
    return start


def _resume(
    stack: ExitStack,
    learner: Learner,
    directory: RunDirectory,
    open_source: OpenSource,
    latest_weights: LatestWeights,
    metrics: LearnerMetrics,
    begun: Callable[[Keep], Start] | None,
) -> tuple[Source, Committer]:
    """Restore the last commit, and return the source, opened behind it, and the committer of the next ones.

    begun: what `_begin` returned, where it was called; otherwise the learner begins here, if there is no commit yet.
    """
    patience = Patience(FULL_DISK_S)
    store = stack.enter_context(Store(directory.store, name=name_of(directory.path), patience=patience))
    checkpoints = CheckpointFolder(directory.checkpoints, patience)
    cursor = restore(learner, store, checkpoints, directory.require_new)
    if cursor is None:
        begin = begun or _begin(learner)
        write_start(directory.path, begin(lambda key, pair: store.put(key, pack(pair))))
        if learner.config.holdout:
            student = learner.objective.encoders()["student"]
            write_weights(directory.path / START_WEIGHTS, student.backbone.state_dict())
    source = stack.enter_context(closing(open_source(store.identity, cursor)))
    directory.has_begun = True
    metrics.registry.register(MemoryMetrics(learner))
    metrics.registry.register(StreamMetrics(source.stats, source.backlog))
    committer = Committer(
        learner,
        source,
        store,
        checkpoints,
        clock=time.monotonic,
        patience=patience,
        publish=latest_weights.export,
        on_pause=metrics.pause_seconds.observe,
        on_commit=metrics.committed,
    )
    return source, stack.enter_context(closing(committer))


def _begin(learner: Learner) -> Callable[[Keep], Start]:
    """Give the networks of a new run their start; return what gives it the memory of a fork too, and tells what was done."""
    if learner.config.fork is None:
        start = learner.start()
        return lambda _keep: start
    with ExitStack() as on_error:
        fork = on_error.enter_context(closing(Fork(expanded(Path(learner.config.fork)))))
        fork.networks(learner)
        on_error.pop_all()  # its memory closes it
    return partial(fork.memory, learner)


def _run(service: Service) -> Summary:
    try:
        return service.run()
    except torch.OutOfMemoryError as error:
        learner = service.learner
        raise SettingsError(
            f"{learner.device} has too little memory for a batch of {learner.config.pacing.batch_size}: "
            "lower --pacing.batch-size, and choose another --run-dir"
        ) from error


def _routes(process: ProcessConfig, live: Live, metrics: LearnerMetrics) -> list[BaseRoute]:
    run_dir = process.run_dir
    monitored = monitoring.routes(live.pulse, metrics.registry)
    return [*view.routes(live, run_dir, _guide(process)), *monitored, *weights.routes(run_dir / EXPORT)]


def _guide(process: ProcessConfig) -> Guide:
    """Return what the page tells a person to type on a rig, or where else the pairs come from."""
    if process.replay or process.source is not None:
        return Guide(origin=origin_of(process), is_made_here=process.source is not None)
    security = security_for(process.connect, keys=process.keys, insecure=process.insecure)
    return Guide(process.connect, key=None if security is None else security.public, keys=process.keys)


def make_learner(settings: TrainSettings, device: torch.device, process: Process) -> Learner:
    """Return a learner at its random start, and set the threads of this process. Raises SettingsError."""
    cores = len(os.sched_getaffinity(0))
    threads = settings.process.threads
    if threads is None:
        threads = max(1, (cores - 1) // process.local_count)
    if threads < 1:
        raise SettingsError(f"--threads must be at least 1, got {threads}")
    cv2.setNumThreads(1)  # images are small: a thread pool of OpenCV would only compete with that of torch
    torch.set_num_threads(threads)
    try:
        learner = Learner(settings.learner, device, begins=False)
    except ValueError as error:  # from a part that does not know our errors
        raise SettingsError(str(error)) from error
    sharers = process.local_count if device.type == "cpu" else 1
    # One number for all, so that all refuse or none.
    slot_bytes = learner.memory.slots.nbytes + learner.held_out.slots.nbytes + learner.assembler.max_bytes
    require_room(learner.trainer, slot_bytes, collectives.broadcast(free_bytes(device) // sharers))
    return learner


def device_for(name: str, process: Process) -> torch.device:
    """Return the compute device of this process: each process of a machine has a GPU of its own.

    Raises SettingsError if there are fewer GPUs than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if process.count == 1 or not torch.cuda.is_available():
        return torch.device("cuda")
    if process.local_count > torch.cuda.device_count():
        raise SettingsError(
            f"{process.local_count} processes need as many GPUs, torch finds {torch.cuda.device_count()}: "
            "lower --nproc-per-node, or use --device cpu"
        )
    device = torch.device("cuda", process.local_number)
    torch.cuda.set_device(device)
    return device


def _load_controls(process: ProcessConfig, learner: Learner, stop: Callable[[], bool]) -> list[ControlSet]:
    """Return the control sets; after a `stop` the remaining ones are left out."""
    limit, config = process.control_limit, learner.config
    patch = learner.objective.encoders()["student"].patch_size
    sets: list[ControlSet] = []
    for word in process.control:
        if stop():
            break
        spec, at, size = word.rpartition("@")
        if not (at and size.isdecimal()):
            spec, size = word, str(config.crops.probe_size)
        if not 0 < int(size) <= MAX_SIDE or int(size) % patch:
            raise SettingsError(
                f"--control {word}: the side of its images must be a multiple of the patch size {patch}"
            )
        control = load_control(spec, size=int(size), limit_train=limit, limit_test=limit, seed=config.seed)
        for labels in (part for part in parts_of(config.objective) if isinstance(part, LabelsConfig)):
            control = unseen(control, load_control(labels.images, size=int(size), **labels.limits).train_images)
        if control.name in {other.name for other in sets}:
            raise SettingsError(f"--control {word}: another set has the name {control.name}: write NAME=PATH")
        sets.append(control)
    return sets
