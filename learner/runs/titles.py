"""The names that a person reads for the numbers in a run's files: one table for the report, the page and the model card."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

ACCURACIES = {"knn": "k-NN", "knn_10pct": "k-NN, 10 % bank", "linear": "linear"}
"""Accuracies of a probe, the keys of a line of probes.jsonl."""
KINDS = {"right": "the right image", "neighbour": "the neighbour in time", "visit": "another visit"}
"""What the held-out pairs of a stream look for (`learner.probes.stream_probe`), the keys of a line of holdout.jsonl."""
CURVES = {
    "loss": "Loss",
    "priority": "Priority: what the reservoir ranks by",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "busy_s": "Seconds a step",
}
"""Numbers of a step that every run has, keys of a line of steps.jsonl; those of the objective are drawn behind the priority."""
FIGURES = {
    "pairs_received": "pairs kept by the rig and received",
    "pairs_suppressed": "pairs suppressed by the rig: seen before",
    "pairs_junk": "pairs left out by the rig: dark or covered",
    "pairs_lost": "pairs lost on the way",
    "pairs_held_out": "pairs held out, never trained on",
    "steps": "training steps",
    "rollbacks": "rollbacks after a collapse",
    "samples_per_s": "samples a second, waiting included",
    "replay_ratio": "samples trained per pair",
    "duty_cycle": "share of the time training",
}
"""Figures of a whole run, the keys of summary.json."""
_NOT_CURVES = {"step", "samples", "received", "seconds", "waited_s"}


def curve_names(keys: Collection[str]) -> list[str]:
    """Return the keys of steps that are drawn as curves: loss and priority, the gauges of the objective, then the others."""
    gauges = [name for name in keys if name not in CURVES.keys() | _NOT_CURVES]
    first, *rest = (name for name in CURVES if name != "priority")
    return [name for name in (first, "priority", *gauges, *rest) if name in {*keys}]


def units_of(meanings: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return the unit of each gauge that has one; meanings: unit and text of each."""
    return {name: unit for name, (unit, _) in meanings.items() if unit}


def curve_title(name: str, units: Mapping[str, str]) -> str:
    """Return the title of a curve; units: of the gauges, as the objective describes them."""
    words = CURVES.get(name, name.replace("_", " ").capitalize() if name != "kl" else "KL")
    return f"{words}, {units[name]}" if units.get(name) else words


def forgetting_words(summary: Mapping[str, Any]) -> str:
    """Return how often the networks of a run went back because of forgetting; empty where no guard watched."""
    watched = summary.get("forgetting")
    if not isinstance(watched, Mapping):
        return ""
    times = watched.get("rollbacks") or 0
    often = "once" if times == 1 else f"{times} times"
    return f"the networks went back {often}" if times else "the networks never went back"


def stream_words(line: Mapping[str, Any]) -> str:
    """Return in words what a line of holdout.jsonl says: how many find the right picture, and how many did at the start."""
    found = [f"{words} {_recalled(line, kind)}" for kind, words in KINDS.items() if line.get(kind) is not None]
    few = f"{line.get('pairs')} pairs held out so far, not enough yet"
    return f"finds {', '.join(found)}" if found else few


def _recalled(line: Mapping[str, Any], kind: str) -> str:
    start, chance, queries = (line.get(f"{kind}_{what}") for what in ("start", "chance", "queries"))
    before = "" if start is None else f"start {start:.0%}, "
    return f"{line[kind]:.0%} ({before}chance {chance:.1%}, {queries} tries)"
