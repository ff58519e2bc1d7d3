"""One run of the bench: from the start to the end of its budget, probed on the way. Nothing that is scored is trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.shared.bench import report_progress
from benchmarks.shared.probing import once, student_of, train_for, use_one_thread
from benchmarks.shared.results import Result
from learner.adapt.forgetting import Answers
from learner.config import LearnerConfig
from learner.loop import Learner
from learner.networks.encoder import Encoder
from learner.pretrained.start import begin
from learner.probes.control_sets import ControlSet
from learner.probes.probe import run_probe
from learner.runs.start import START_WEIGHTS
from learner.service.stream_probe import StreamProbe
from learner.weights.export import write_weights
from stream.pair import EncodedPair

CONTROL, PLACES, STREAM = "control", "places", "stream"
"""What a probe measures: control sets, places of the simulated world, held-out pairs of the stream."""


def adapted(
    config: LearnerConfig,
    weights: str,
    pairs: Iterable[EncodedPair],
    sets: Sequence[ControlSet],
    places: ControlSet | None,
    due_s: Sequence[float],
    label: str,
) -> Result:
    """Train on the pairs, and probe the student before and each time that so many CPU seconds are used.

    weights: those that everything is compared with, also where a run does not start from them. places: of the simulated world
    that is streamed. label: begins its progress. Returns the figures of these weights, `start`, and the `curve` of the run.
    The guard against forgetting of the run's settings acts at the probes; it knows the control sets, not the places.
    """
    use_one_thread()
    start = Encoder(config.encoder)
    begin(start, replace(config.encoder, weights=weights))
    before = probed(start, sets)[0] | _places(start, places)
    # A name with a tag is refused where a run begins at random by mistake; here it is meant.
    learner = Learner(config, torch.device("cpu"), begins=config.encoder.weights is not None)
    student, curve = student_of(learner), []
    with tempfile.TemporaryDirectory() as folder:
        write_weights(file := Path(folder) / START_WEIGHTS, start.backbone.state_dict())
        stream = StreamProbe(learner=learner, start=file)

        def probe(cpu_s: float) -> None:
            found, answers = probed(student, sets)
            point = {"step": learner.steps, "cpu_s": round(cpu_s, 1), **found, **_places(student, places)}
            curve.append(point | {STREAM: stream.measure(student)})
            learner.judge(answers, may_go_back=cpu_s < due_s[-1])
            report_progress(f"{label}  step {learner.steps}, {cpu_s:.0f} CPU-s  {_in_words(point)}")

        probe(0.0)
        for cpu_s in train_for(learner, pairs, due_s):
            probe(cpu_s)
    return {
        "start": before,
        "curve": curve,
        "steps": learner.steps,
        "pairs_received": learner.received,
        "pairs_held_out": learner.held_out.count,
        "rollbacks": learner.trainer.forgetting.rollbacks,
    }


_once = once(run_probe)


def probed(encoder: Encoder, sets: Sequence[ControlSet]) -> tuple[Result, Answers]:
    """Return the accuracies of each control set, and the answers that the guard against forgetting compares."""
    found = {control.name: _once(encoder, control) for control in sets}
    accuracies = {name: {"knn": one.knn, "linear": one.linear} for name, one in found.items()}
    return {CONTROL: accuracies}, {(name, "student"): one.knn_right for name, one in found.items()}


def _places(encoder: Encoder, places: ControlSet | None) -> Result:
    return {} if places is None else {PLACES: probed(encoder, [places])[0][CONTROL][places.name]}


def _in_words(point: Result) -> str:
    sets = point[CONTROL] | ({PLACES: point[PLACES]} if PLACES in point else {})
    return "  ".join(f"{name} {100 * one['knn']:.1f} %" for name, one in sets.items())
