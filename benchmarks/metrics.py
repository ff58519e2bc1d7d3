"""The list of all metrics, as in docs/metrics.md; with --cost, the share of a core that counting and scraping takes.

The list is made from the code that counts, so both always agree: `python -m benchmarks metrics > docs/metrics.md`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from prometheus_client import CollectorRegistry, Metric, generate_latest
from rich.console import RenderableType

from benchmarks.shared.bench import Bench, Goal, RoundsSettings, figure_table, in_turns, medians
from benchmarks.shared.recipes import PRESETS
from device.dedupe import Verdict
from device.metrics import DeviceMetrics
from device.spool.consumers.consumers import Refusal
from device.spool.rules import SpoolLimits, SpoolStats
from learner.adapt.anchor import ANCHOR_MEANINGS
from learner.loop import Learner, StepReport
from learner.metrics import LearnerMetrics, MemoryMetrics
from learner.objectives.table import BESIDE, OBJECTIVES
from learner.objectives.weighted_sum import Sum
from learner.probes.spectrum import COMMON_MEANINGS
from stream.live.backfill_messages import Vitals
from stream.live.metrics import MAX_DEVICES_SHOWN, StreamMetrics
from stream.stats import DeviceStats, SourceStats
from stream.transport import handshake

LABELS = {
    "cause": "why pairs of a spool are lost: evicted, rot",
    "control": "a labelled set that `--control` names",
    "device": f"the name of a rig, of the first {MAX_DEVICES_SHOWN} that sent anything; "
    "those beyond are in the totals and in `babyagent_stream_untold_devices`",
    "encoder": "student or teacher; of the stream's probe also start",
    "probe": "how the features were measured: knn, knn_10pct, linear",
    "query": "what a held-out pair looks for: right (its right image), neighbour (in time), visit (of the same place)",
    "reason": "one of a fixed list, each there from the start with 0",
    "tier": "where a pair waits: fresh (for its first step), reservoir",
}
"""Every label, and the bound of the number of its values."""
PAIRS_PER_S = 30.0
SCRAPE_EVERY_S = 15.0
MAX_SHARE = 0.005
"""Largest share of a core that counting and scraping may take."""


@dataclass(frozen=True, kw_only=True)
class MetricsSettings(RoundsSettings):
    """Write the list of metrics, or measure the cost of counting them."""

    cost: bool = False
    """Measure the CPU time of counting 30 pairs and 30 steps per second and of a scrape every 15 s."""


class ListedMetric(NamedTuple):
    """A metric as it is shown in the list."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def measure(settings: MetricsSettings) -> dict[str, Any]:
    """Return the list of metrics by name; with --cost, the share of a core that each counting process takes."""
    if not settings.cost:
        return {metric.name: dict(zip(metric._fields[1:], metric[1:], strict=True)) for metric in listed(exported())}
    rows: dict[str, Callable[[], float]] = {
        "rig": _rig_share,
        "learner of 1 rig": partial(_learner_share, 1),
        f"learner of {MAX_DEVICES_SHOWN} rigs": partial(_learner_share, MAX_DEVICES_SHOWN),
    }
    return medians(in_turns(rows, settings.rounds), 6)


def render(settings: MetricsSettings, figures: dict[str, Any]) -> list[RenderableType]:
    """Return the text of docs/metrics.md, or a table of the shares."""
    if not settings.cost:
        return [document(exported())]
    return [figure_table("", ("who counts", "of a core"), {name: [f"{share:.3%}"] for name, share in figures.items()})]


def goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """Yield the goal that counting takes little time. The list alone has no goals."""
    for name, share in figures.items():
        if isinstance(share, float):
            yield Goal(name, share, MAX_SHARE)


COMMAND = Bench(MetricsSettings, measure, render, goals)


def exported() -> list[Metric]:
    """Return every metric of a rig and a learner, with a value for each label."""
    device, learner, stream = _device(), _learner(), CollectorRegistry()
    stream.register(_stream(1))
    return [metric for registry in (device.registry, learner.registry, stream) for metric in registry.collect()]


def listed(metrics: Sequence[Metric]) -> list[ListedMetric]:
    """Return our metrics, sorted by name, without those of the process, which belong to the client library."""
    ours = {metric.name: metric for metric in metrics if metric.name.startswith("babyagent_")}
    return [_listed(metric) for _, metric in sorted(ours.items())]


def document(metrics: Sequence[Metric]) -> str:
    """Return the text of docs/metrics.md."""
    ours = listed(metrics)
    parts = [_HEAD]
    for folder, title in _FOLDERS.items():
        parts.append(f"\n## {title}\n\n| name | type | labels | what |\n|---|---|---|---|\n")
        parts += [
            f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.text} |\n"
            for metric in ours
            if metric.name.startswith(f"babyagent_{folder}_")
        ]
    parts.append("\n## Labels\n\n| label | what, and what bounds it |\n|---|---|\n")
    parts += [f"| `{label}` | {text} |\n" for label, text in LABELS.items()]
    return "".join(parts)


_HEAD = """# Metrics

Written by `python -m benchmarks metrics`; a test compares it with the code. A rig exports its own at
`http://127.0.0.1:PORT/metrics` where `--metrics-port PORT` is given, a learner all others at `--http-port`, 9632. Both export
`process_cpu_seconds_total`, `process_resident_memory_bytes` and the like too.

Counts are those of the process and begin at 0 with it: take `rate()` or `increase()`. Units are in the names: seconds, bytes,
pairs, steps, ratios of 0 to 1.
"""
_FOLDERS = {
    "device": "The rig",
    "stream": "What the learner receives",
    "buffer": "What it remembers",
    "learner": "How it learns",
}


def _listed(metric: Metric) -> ListedMetric:
    labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
    buckets = [sample.labels["le"] for sample in metric.samples if "le" in sample.labels]
    text = metric.documentation + (f" Buckets: {', '.join(bucket for bucket in buckets)}." if buckets else "")
    return ListedMetric(
        f"{metric.name}{'_total' if metric.type == 'counter' else ''}", metric.type, tuple(labels), text
    )


def _device() -> DeviceMetrics:
    metrics = DeviceMetrics()
    spool = SpoolStats(
        pairs=0,
        backlog=0,
        bytes=0,
        limits=SpoolLimits(4, free_floor_bytes=0, segment_bytes=1),
        segments=0,
        consumers=0,
        oldest_age_s=0.0,
        lost={"evicted": 0, "rot": 0},
        unspooled=0,
        refused_consumers=dict.fromkeys(map(str, Refusal), 0),
    )
    metrics.watch_spool(lambda: spool, lambda: 0)
    metrics.watch_sensors(lambda: Vitals(battery=1.0, temperature_c=20.0))
    metrics.watch_handshakes(lambda: dict.fromkeys(handshake.REASONS, 0))
    return metrics


def _learner() -> LearnerMetrics:
    learner = Learner(PRESETS["cpu"], torch.device("cpu"))
    shipped = chain.from_iterable(kind.meanings.items() for kind in (*BESIDE.values(), *reversed(OBJECTIVES.values())))
    known = {**Sum.meanings, **dict(shipped), **COMMON_MEANINGS, **ANCHOR_MEANINGS}
    metrics = LearnerMetrics(meanings=known)
    metrics.probed(0, "digits", "student", {"knn": 0.0}, 1.0)
    metrics.probed_stream("start", {"right": 0.0})
    metrics.registry.register(MemoryMetrics(learner))
    return metrics


def _stream(devices: int) -> StreamMetrics:
    """Return the metrics of a subscriber that receives from so many devices and knows every value of each."""
    device = DeviceStats(
        epoch="0" * 32, next_seq=1, received=1, clock_offset_ns=0, clock_error_ns=0, battery=1.0, temperature_c=20.0
    )
    names = tuple(f"rig{number}" for number in range(devices))
    stats = SourceStats(devices=dict.fromkeys(names, device), endpoints=names)
    return StreamMetrics(lambda: stats, lambda: 0)


def _rig_share() -> float:
    metrics, verdict = _device(), Verdict("new", None, 0.0)

    def pair() -> None:
        metrics.captured.inc()
        metrics.encoded(1000, 0.001)
        metrics.count(verdict)
        metrics.sent.inc()

    return _share(pair, metrics.registry)


def _learner_share(devices: int) -> float:
    """Return the share of a core that a learner's metrics take, with one step for each pair.

    This is an upper bound: a real learner makes far fewer steps, unless its batches are tiny.
    """
    metrics = _learner()
    metrics.registry.register(_stream(devices))
    known = {"rig0": DeviceStats(epoch="0" * 32, next_seq=1, clock_offset_ns=0)}
    gauges = dict.fromkeys(metrics.gauges, 0.5)
    report = StepReport(
        step=1, samples=8, received=8, loss=1.0, grad_norm=1.0, learning_rate=1e-3, gauges=gauges, fresh=(("rig0", 0),)
    )

    def step() -> None:
        metrics.step(report, 8)
        metrics.fresh_trained(report.fresh, known)

    return _share(step, metrics.registry)


def _share(count: Callable[[], None], registry: CollectorRegistry) -> float:
    """Return the share of a core that counting each pair and scraping take."""
    return _cpu_s(count, 2000) * PAIRS_PER_S + _cpu_s(lambda: generate_latest(registry), 20) / SCRAPE_EVERY_S


def _cpu_s(action: Callable[[], object], times: int) -> float:
    """Return the CPU time of one call, seconds."""
    started_s = time.thread_time()
    for _ in range(times):
        action()
    return (time.thread_time() - started_s) / times
