"""Computes the figures of a whole run from its learner, its lines and the counts of its source. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learner.loop import Learner
from learner.memory.pictures import different
from learner.report.html import number
from learner.runs.reading import Line
from learner.runs.start import start_words
from learner.runs.titles import ACCURACIES, forgetting_words, stream_words, units_of
from learner.service.timing import Times
from stream.host.printing import printable
from stream.host.typed import here
from stream.source import Cursor
from stream.stats import SourceStats

FEW = 100
"""Fewer different pictures are too little to learn from."""
LOOKED = 256
"""Pairs in memory that are compared."""

Summary = dict[str, Any]


def summarise(
    learner: Learner,
    steps: Sequence[Line],
    probes: Sequence[Line],
    stats: SourceStats | None,
    start: Line,
    held: Sequence[Line] = (),
) -> Summary:
    """Return the figures of a run. steps, probes, held: its lines; stats: of a live stream, None for another source.

    start: what it started from (`learner.runs.start`); the first probe of each control set, at step 0, is that of the start.
    """
    trained = [line for line in steps if not line["refused"]]
    first, last = (trained[0], trained[-1]) if trained else ({}, {})
    counts, held_out = learner.counts(), learner.held_out.count
    trainable = learner.received - held_out
    return {
        "start": start,
        "pairs_received": learner.received,
        "pairs_suppressed": learner.suppressed,
        "pairs_junk": learner.junk,
        "pairs_lost": stats.lost if stats else 0,
        "pairs_held_out": held_out,
        "pairs_repeated": stats.repeated if stats else 0,
        "malformed": dict(stats.malformed) if stats else {},
        "undecodable": counts.undecodable,
        "steps": learner.steps,
        "rollbacks": learner.trainer.guard.rollbacks,
        **learner.trainer.forgetting.figures(),
        "samples": learner.samples,
        "replay_ratio": round(learner.samples / trainable, 3) if trainable else 0.0,
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
            **({"clips": counts.clips} if learner.config.memory.clip > 1 else {}),
        },
        "stream_probe": {line["encoder"]: line for line in held},
    } | probe_figures(probes)


def why_no_step(learner: Learner) -> str:
    """Return why a run made no step, with a remedy; "" if it made one."""
    if learner.steps:
        return ""
    if not learner.received:
        return "nothing was learned: the source ended before its first pair; look at its camera and its log"
    held = learner.held_out.count
    came = f"{learner.received} pairs came" + (f", of which {held} are held out" if held else "")
    lower = "--holdout and --pacing.batch-size" if held else "--pacing.batch-size"
    needs = f"the first step needs {max(1, learner.wanted())} more"
    return f"nothing was learned: {came}, and {needs}. Record more, or lower {lower} in another --run-dir"


def too_little(learner: Learner) -> str:
    """Return a sentence if a run has trained on so few different pictures that there is little to learn from; else ""."""
    if not learner.steps:
        return ""
    looked, few = different(learner.memory, LOOKED)
    has_all, repeats = looked >= learner.received - learner.held_out.count, 2 * few <= looked
    if few >= FEW or not (has_all or repeats):
        return ""
    what = f"{looked} pairs show only {few} different pictures"
    return f"too little to learn from: {what}. Record at least some hundred different ones"


def too_short(learner: Learner) -> str:
    """Return a sentence if the clips in memory have less than half of the pairs that they should have on average; else ""."""
    counts, memory = learner.counts(), learner.config.memory
    if not counts.clips or 2 * counts.kept >= memory.clip * counts.clips:
        return ""
    return (
        f"clips have {counts.kept / counts.clips:.1f} pairs on average instead of {memory.clip}: pairs are missing between them, "
        f"are more than --memory.max-gap-s {memory.max_gap_s:g} apart, or come from more rigs than --memory.fresh-capacity "
        f"{memory.fresh_capacity} has room for"
    )


def streams_of(cursor: Cursor) -> list[str]:
    """Return the devices and epochs that a cursor has pairs of, as `DEVICE/EPOCH`."""
    devices = cursor.get("devices")
    if not isinstance(devices, dict):
        return []
    # In the cursor of a live stream the epochs stand beside the counts of their device.
    epochs = {device: one["epochs"] if "counts" in one else one for device, one in devices.items()}
    return sorted(f"{device}/{epoch[:8]}" for device, names in epochs.items() for epoch in names)


def pace(times: Times, samples: int, now_s: float) -> Summary:
    """Return how fast a process trained. samples: those that this process trained on."""
    active_s = times.busy_s + times.waited_s
    spent = {"training": times.busy_s, "waiting for pairs": times.waited_s, **times.spent_s}
    return {
        "seconds": times.elapsed_s(now_s),
        "samples_per_s": round(samples / active_s, 2) if active_s else 0.0,
        "duty_cycle": round(times.busy_s / active_s, 4) if active_s else 0.0,
        "spent_s": {name: round(seconds, 1) for name, seconds in spent.items()},
    }


def probe_figures(lines: Sequence[Line]) -> dict[str, Any]:
    """Return the first and the last probe of each set, and the steps of the first and the last of all, as figures of a run."""
    return {"probe": probe_table(lines), "probed_steps": [line["step"] for line in (*lines[:1], *lines[-1:])]}


def probe_table(lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """Return the first and the last accuracies on each control set: {set: {before|after: {knn_student: ...}}}.

    `steps` of a set has the steps of its first and its last probe. `after` is empty if there was only one probe, since a run
    that is stopped by hand is not probed again.
    """
    table: dict[str, dict[str, Any]] = {}
    for line in lines:
        row = table.setdefault(line["set"], {"before": {}, "after": {}, "steps": [line["step"]]})
        row["steps"] = [row["steps"][0], line["step"]]
        for kind in ACCURACIES:
            name = f"{kind}_{line['encoder']}"
            row["after" if name in row["before"] else "before"][name] = line[kind]
    return table


def describe(summary: Summary, run_dir: Path, page: str = "", *, reported: bool = True) -> str:
    """Return the most important figures as text for a person, the address that the page had ("": none), and the report's path.

    reported: whether there is a report.
    """
    lines = [f"{'started from':18} {printable(start_words(summary['start']))}"]
    lines += [f"{name.replace('_', ' '):18} {number(summary[name])}" for name in _DESCRIBED]
    if went_back := forgetting_words(summary):
        lines.append(f"{'forgetting':18} {went_back}")
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary["spent_s"].items())
    lines.append(f"{'time':18} {spent}")
    if summary["probe"]:
        lines.append(f"{'probed at steps':18} {' -> '.join(str(step) for step in summary['probed_steps'])}")
    for control, row in summary["probe"].items():
        first = row["steps"][0]
        late = f" (step {first})" * (first != summary["probed_steps"][0])
        for kind, before in row["before"].items():
            after = f"{row['after'][kind]:.3f}" if kind in row["after"] else "not measured again"
            lines.append(f"{control:18} {kind.replace('_', ' '):18} {before:.3f}{late} -> {after}")
    for encoder, line in summary["stream_probe"].items():
        lines.append(f"{'the stream':18} {encoder:18} {stream_words(line)}")
    lines += [f"warning: {summary['warning']}"] * bool(summary["warning"])
    if page:
        lines.append(f"page: {page} while the learner runs")
    command = here("learner", "report", str(run_dir))
    return "\n".join(
        [*lines, f"report: {run_dir / 'report.html'}" if reported else f"no report; this writes it: {command}"]
    )


_DESCRIBED = (
    "pairs_received",
    "pairs_suppressed",
    "pairs_lost",
    "pairs_held_out",
    "steps",
    "rollbacks",
    "samples_per_s",
    "loss_first",
    "loss_last",
)
