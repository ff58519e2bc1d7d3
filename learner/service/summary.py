"""Computes the figures of a whole run from its learner, its lines and the counts of its source. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learner.loop import Learner
from learner.report.html import number
from learner.runs.reading import Line
from learner.runs.titles import ACCURACIES, units_of
from learner.service.timing import Times
from stream.stats import SourceStats

Summary = dict[str, Any]


def summarise(learner: Learner, steps: Sequence[Line], probes: Sequence[Line], stats: SourceStats | None) -> Summary:
    """Return the figures of a run. steps, probes: its lines; stats: of a live stream, None for another source."""
    trained = [line for line in steps if not line["refused"]]
    first, last = (trained[0], trained[-1]) if trained else ({}, {})
    counts = learner.counts()
    return {
        "pairs_received": learner.received,
        "pairs_suppressed": learner.suppressed,
        "pairs_junk": learner.junk,
        "pairs_lost": stats.lost if stats else 0,
        "pairs_repeated": stats.repeated if stats else 0,
        "malformed": dict(stats.malformed) if stats else {},
        "undecodable": counts.undecodable,
        "steps": learner.steps,
        "rollbacks": learner.trainer.guard.rollbacks,
        "samples": learner.samples,
        "replay_ratio": round(learner.samples / learner.received, 3) if learner.received else 0.0,
        "loss_first": first.get("loss"),
        "loss_last": last.get("loss"),
        "gauges_last": {name: last[name] for name in learner.trainer.meanings if name in last},
        "units": units_of(learner.trainer.meanings),
        "reservoir": {
            "kept": counts.kept,
            "capacity": learner.config.memory.capacity,
            "fresh": counts.fresh,
            "dropped_fresh": counts.dropped_fresh,
            "quarantined": counts.quarantined,
        },
    } | probe_figures(probes)


def why_no_step(steps: int, received: int, batch_size: int) -> str:
    """Return why a run made no step although pairs came, with a remedy; "" if it made one."""
    if steps or not 0 < received < batch_size:
        return ""
    few = f"{received} pairs are fewer than a batch of {batch_size}"
    return f"nothing was learned: {few}; lower --pacing.batch-size or record more"


def pace(times: Times, samples: int, now_s: float) -> Summary:
    """Return how fast a process trained. samples: those that this process trained on."""
    active_s = times.busy_s + times.waited_s
    return {
        "seconds": times.elapsed_s(now_s),
        "samples_per_s": round(samples / active_s, 2) if active_s else 0.0,
        "duty_cycle": round(times.busy_s / active_s, 4) if active_s else 0.0,
    }


def probe_figures(lines: Sequence[Line]) -> dict[str, Any]:
    """Return the first and the last probe of each set, and the steps of the first and the last of all, as figures of a run."""
    return {"probe": probe_table(lines), "probed_steps": [line["step"] for line in (*lines[:1], *lines[-1:])]}


def probe_table(lines: Sequence[Line]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the first and the last accuracies on each control set: {set: {before|after: {knn_student: ...}}}.

    `after` is empty if there was only one probe, since a run that is stopped by hand is not probed again.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for line in lines:
        row = table.setdefault(line["set"], {"before": {}, "after": {}})
        for kind in ACCURACIES:
            name = f"{kind}_{line['encoder']}"
            row["after" if name in row["before"] else "before"][name] = line[kind]
    return table


def describe(summary: Summary, run_dir: Path, page: str = "") -> str:
    """Return the most important figures as text for a person, the address that the page had ("": none), and the report's path."""
    lines = [f"{name.replace('_', ' '):18} {number(summary[name])}" for name in _DESCRIBED]
    if summary["probe"]:
        lines.append(f"{'probed at steps':18} {' -> '.join(str(step) for step in summary['probed_steps'])}")
    for control, row in summary["probe"].items():
        for kind, before in row["before"].items():
            after = f"{row['after'][kind]:.3f}" if kind in row["after"] else "not measured again"
            lines.append(f"{control:18} {kind.replace('_', ' '):18} {before:.3f} -> {after}")
    if page:
        lines.append(f"page: {page} while the learner runs")
    return "\n".join([*lines, f"report: {run_dir / 'report.html'}"])


_DESCRIBED = (
    "pairs_received",
    "pairs_suppressed",
    "pairs_lost",
    "steps",
    "rollbacks",
    "samples_per_s",
    "loss_first",
    "loss_last",
)
