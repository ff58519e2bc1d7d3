"""Training with probes on the way: control sets, accuracies of frozen features, and CPU time that leaves the probes out."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.shared.pairs import TimedPairs
from device.sim.camera import SimConfig
from device.sim.control_set import write_control_set
from learner.errors import Failed
from learner.loop import Learner, StepReport, learn
from learner.networks.encoder import Encoder
from learner.probes.control_sets import ControlSet, load_control
from learner.probes.probe import extract, knn_accuracy, linear_accuracy
from stream.pair import EncodedPair
from stream.source import IteratorSource

Found = TypeVar("Found")
PLACES = "places"
PROBES = {"knn": "k-NN", "linear": "linear"}
"""Titles of the probes."""
PLACE_SIZE = 96
"""Side in pixels at which a view of a place is probed: about the scale that crops are trained at."""


class _Available:
    """The rule that a compute device must exist on this machine."""

    def holds(self, value: str) -> bool:
        """Return whether the device exists."""
        return value != "cuda" or torch.cuda.is_available()

    def __str__(self) -> str:
        return "cpu or auto: torch finds no GPU here"


Device = Annotated[Literal["auto", "cpu", "cuda"], _Available()]


def compute_device(name: str) -> torch.device:
    """Return the compute device of a `--device` flag; `auto` takes a GPU if there is one."""
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def use_one_thread(device: torch.device | None = None) -> None:
    """Let torch and OpenCV use one thread of this process; with a GPU, torch keeps its threads."""
    cv2.setNumThreads(1)
    if device is None or device.type == "cpu":
        torch.set_num_threads(1)


@cache
def control_set(spec: str, size: int, max_train: int | None = None, max_test: int | None = None) -> ControlSet:
    """Return the control set that `spec` names, as for `--control`; it is loaded only once.

    size: side of an image, pixels. max_train, max_test: largest numbers of images in the halves.
    """
    return load_control(spec, size=size, limit_train=max_train, limit_test=max_test)


@lru_cache(maxsize=2)
def places_of(
    world: SimConfig, *, size: int = PLACE_SIZE, per_place: int, count: int = 30_000, every: int = 3
) -> ControlSet:
    """Return the rooms of a world as a control set, as two walks see them that are never streamed.

    size: side of an image, pixels. per_place: images of each room in each half. count, every: as for `write_control_set`.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_control_set(Path(folder) / PLACES, config=world, count=count, every=every, per_place=per_place)
        return load_control(f"{PLACES}={folder}/{PLACES}", size=size)


def student_of(learner: Learner) -> Encoder:
    """Return the encoder that is trained."""
    return learner.objective.encoders()["student"]


def features_of(encoder: Encoder, control: ControlSet, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the features of the train and of the test half: float32 [N, D] and [M, D], on the CPU."""
    return extract(encoder, control.train_images, device=device), extract(encoder, control.test_images, device=device)


def accuracies(control: ControlSet, bank: Tensor, test: Tensor) -> dict[str, float]:
    """Return the accuracies (0 to 1) of k-NN and of the linear classifier.

    They classify the features of the test half, [M, D], by those of the train half.
    """
    labels, truth = control.train_labels, control.test_labels
    return {"knn": knn_accuracy(bank, labels, test, truth), "linear": linear_accuracy(bank, labels, test, truth)}


def once(measure: Callable[[Encoder, ControlSet], Found]) -> Callable[[Encoder, ControlSet], Found]:
    """Return the function, but equal weights on the CPU are measured once by a process: runs often begin with the same start."""
    known: dict[tuple[ControlSet, str], Found] = {}

    def measured_once(encoder: Encoder, control: ControlSet) -> Found:
        weights = hashlib.sha256(repr(replace(encoder.config, weights=None)).encode())
        for tensor in encoder.state_dict().values():
            weights.update(tensor.numpy())
        key = control, weights.hexdigest()
        if key not in known:
            known[key] = measure(encoder, control)
        return known[key]

    return measured_once


@once
def measured(encoder: Encoder, control: ControlSet) -> dict[str, float]:
    """Return what `accuracies` returns for an encoder on the CPU."""
    return accuracies(control, *features_of(encoder, control))


def accuracies_on(learner: Learner, controls: Iterable[ControlSet]) -> dict[str, float]:
    """Return the accuracies of the student on control sets, as `NAME knn` and `NAME linear`."""
    found: dict[str, float] = {}
    for control in controls:
        of_control = measured(student_of(learner), control)
        found |= {f"{control.name} {kind}": value for kind, value in of_control.items()}
    return found


@dataclass(kw_only=True)
class StepLog:
    """Loss and gauges of each training step, and the number of rollbacks."""

    gauges: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rollbacks: int = 0

    def add(self, report: StepReport) -> None:
        """Add a step."""
        self.rollbacks += bool(report.rolled_back)
        for name, value in {"loss": report.loss, **report.gauges}.items():
            self.gauges[name].append(value)

    def means(self, newest: int = 0) -> dict[str, float]:
        """Return the mean of each gauge over the newest steps, as many as `newest` says; 0: over all."""
        return {name: round(float(np.mean(values[-newest:])), 4) for name, values in self.gauges.items()}


def evenly(steps: int, parts: int) -> list[int]:
    """Return the steps at which `parts` equal parts of a run end."""
    return [round(steps * part / parts) for part in range(1, parts + 1)]


def train_to(
    learner: Learner,
    pairs: Iterable[EncodedPair],
    steps: Sequence[int],
    observe: Callable[[StepReport], object] = lambda _report: None,
) -> Iterator[float]:
    """Train, and at each of these steps yield the CPU seconds so far, without those of the caller between two yields."""
    events = learn(learner, IteratorSource(pairs), clock=time.monotonic)
    cpu_s = 0.0
    for due in steps:
        resumed_s = time.process_time()
        while learner.steps < due:
            event = next(events, None)
            if event is None:
                raise Failed(
                    f"the stream has ended at step {learner.steps}, before step {due}: it needs more pairs, or smaller steps"
                )
            if isinstance(event, StepReport):
                observe(event)
        cpu_s += time.process_time() - resumed_s
        yield cpu_s


def train_for(learner: Learner, pairs: Iterable[EncodedPair], due_s: Sequence[float]) -> Iterator[float]:
    """Train, and yield the CPU seconds so far each time that so many are used, without those of the caller between two yields.

    Receiving, decoding and training count; making the pairs is the rig's work and does not.
    """
    rig = TimedPairs(pairs)
    events = learn(learner, IteratorSource(rig), clock=time.monotonic)
    used_s = 0.0
    for due in due_s:
        resumed_s = time.process_time() - rig.cpu_s - used_s
        while used_s < due:
            if next(events, None) is None:
                raise Failed(
                    f"the stream has ended at step {learner.steps}, after {used_s:.0f} of {due:.0f} CPU seconds"
                )
            used_s = time.process_time() - rig.cpu_s - resumed_s
        yield used_s


def curve(
    learner: Learner, pairs: Iterable[EncodedPair], steps: Sequence[int], probe: Callable[[], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Train, and probe the random start and each of these steps; return what was found, with its step and the CPU seconds."""
    start = {"step": 0, "cpu_s": 0.0, **probe()}
    later = ({"step": learner.steps, "cpu_s": round(cpu_s, 2), **probe()} for cpu_s in train_to(learner, pairs, steps))
    return [start, *later]
