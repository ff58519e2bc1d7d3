"""The names that a person reads for the numbers in a run's files: one table for the report, the page and the model card."""

from __future__ import annotations

from collections.abc import Iterable

ACCURACIES = {"knn": "k-NN", "knn_10pct": "k-NN, 10 % bank", "linear": "linear"}
"""Accuracies of a probe, the keys of a line of probes.jsonl."""
CURVES = {
    "loss": "Loss",
    "priority": "Priority",
    "kl": "KL of student from teacher, nats",
    "teacher_entropy": "Teacher entropy, nats",
    "prototypes_in_use": "Prototypes in use",
    "crop_cosine": "Cosine between the crops of a pair",
    "teacher_information": "Information of a target about its pair, share",
    "student_information": "Information of the student about its pair, share",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "busy_s": "Seconds a step",
}
"""Numbers of a step, the keys of a line of steps.jsonl, in the order in which their curves are shown."""
FIGURES = {
    "pairs_received": "pairs kept by the rig and received",
    "pairs_suppressed": "pairs suppressed by the rig: seen before",
    "pairs_junk": "pairs left out by the rig: dark or covered",
    "pairs_lost": "pairs lost on the way",
    "steps": "training steps",
    "rollbacks": "rollbacks after a collapse",
    "samples_per_s": "samples a second, waiting included",
    "replay_ratio": "samples trained per pair",
    "duty_cycle": "share of the time training",
}
"""Figures of a whole run, the keys of summary.json."""
_NOT_CURVES = {"step", "samples", "received", "seconds", "waited_s"}


def curve_names(keys: Iterable[str]) -> list[str]:
    """Return the keys of steps that are drawn as curves: those with a title in its order, then all others."""
    names = list(keys)
    return [name for name in CURVES if name in names] + [n for n in names if n not in CURVES.keys() | _NOT_CURVES]
