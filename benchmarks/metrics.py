"""What is told to Prometheus, as the table in docs/metrics.md; with --cost, what telling it costs of a core.

The table is read off the code that counts, so it cannot say anything else: `python -m benchmarks metrics > docs/metrics.md`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import tyro
from prometheus_client import CollectorRegistry, Metric, generate_latest

from device.dedupe import Verdict
from device.metrics import DeviceMetrics
from device.spool.rules import SpoolStats
from learner.config import PRESETS
from learner.loop import Learner, StepReport
from learner.metrics import LearnerMetrics, MemoryMetrics
from learner.objectives.babyagent import BabyAgent
from learner.objectives.contrastive import Contrastive
from stream.live.backfill_messages import Vitals
from stream.live.metrics import MAX_DEVICES_SHOWN, StreamMetrics
from stream.stats import DeviceStats, SourceStats
from stream.transport import handshake

LABELS = {
    "cause": "why pairs of a spool are lost: evicted, rot",
    "control": "a labelled set that `--control` names",
    "device": f"the name of a rig, of the first {MAX_DEVICES_SHOWN} heard of; "
    "those beyond are in the totals and in `babyagent_stream_untold_devices`",
    "encoder": "student or teacher",
    "probe": "how the features were judged: knn, knn_10pct, linear",
    "reason": "one of a fixed list, each there from the start with 0",
    "tier": "where a pair waits: fresh (for its first step), reservoir",
}
"""Every label there is, and what bounds it."""
PAIRS_PER_S = 30.0
SCRAPE_EVERY_S = 15.0
MAX_SHARE = 0.005
"""Of a core, that telling may cost."""


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """Write the list of metrics, or measure what they cost."""

    cost: bool = False
    """Measure the CPU time of counting 30 pairs and 30 steps a second and of a scrape every 15 s."""
    rounds: int = 5
    """Of the measurement; the median is reported."""
    json: bool = False
    """One JSON object instead of the table."""


class Row(NamedTuple):
    """A metric as it is listed."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def main(arguments: Sequence[str]) -> int:
    """Print the list, or the cost; returns 1 where it is above MAX_SHARE."""
    settings = tyro.cli(MetricsSettings, args=list(arguments), prog="python -m benchmarks metrics")
    if settings.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {settings.rounds}")
    if settings.cost:
        return _tell_cost(settings)
    if settings.json:
        listed = {row.name: {"kind": row.kind, "labels": row.labels, "text": row.text} for row in rows(told())}
        sys.stdout.write(json.dumps(listed) + "\n")
        return 0
    sys.stdout.write(document(told()))
    return 0


def told() -> list[Metric]:
    """Every metric of a rig and a learner, with a value for each label."""
    device, learner, stream = _device(), _learner(), CollectorRegistry()
    stream.register(_stream(1))
    return [metric for registry in (device.registry, learner.registry, stream) for metric in registry.collect()]


def rows(metrics: Sequence[Metric]) -> list[Row]:
    """One for each name, sorted; those of the process are the client library's."""
    ours = {metric.name: metric for metric in metrics if metric.name.startswith("babyagent_")}
    return [_row(metric) for _, metric in sorted(ours.items())]


def document(metrics: Sequence[Metric]) -> str:
    """docs/metrics.md."""
    listed = rows(metrics)
    parts = [_HEAD]
    for folder, title in _FOLDERS.items():
        parts.append(f"\n## {title}\n\n| name | type | labels | what |\n|---|---|---|---|\n")
        parts += [
            f"| `{row.name}` | {row.kind} | {', '.join(row.labels)} | {row.text} |\n"
            for row in listed
            if row.name.startswith(f"babyagent_{folder}_")
        ]
    parts.append("\n## Labels\n\n| label | what, and what bounds it |\n|---|---|\n")
    parts += [f"| `{label}` | {text} |\n" for label, text in LABELS.items()]
    return "".join(parts)


_HEAD = """# Metrics

Written by `python -m benchmarks metrics`; a test compares it with the code. A rig tells its own at
`http://127.0.0.1:PORT/metrics` where `--metrics-port PORT` is given, a learner all others at `--http-port`, 9632. Both tell
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


def _row(metric: Metric) -> Row:
    labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
    buckets = [sample.labels["le"] for sample in metric.samples if "le" in sample.labels]
    text = metric.documentation + (f" Buckets: {', '.join(bucket for bucket in buckets)}." if buckets else "")
    return Row(f"{metric.name}{'_total' if metric.type == 'counter' else ''}", metric.type, tuple(labels), text)


def _device() -> DeviceMetrics:
    metrics = DeviceMetrics()
    spool = SpoolStats(
        pairs=0,
        backlog=0,
        bytes=0,
        max_bytes=0,
        free_floor_bytes=0,
        segments=0,
        consumers=0,
        oldest_age_s=0.0,
        lost={"evicted": 0, "rot": 0},
        unspooled=0,
    )
    metrics.watch_spool(lambda: spool, lambda: 0)
    metrics.watch_sensors(lambda: Vitals(battery=1.0, temperature_c=20.0))
    metrics.watch_handshakes(lambda: dict.fromkeys(handshake.REASONS, 0))
    return metrics


def _learner() -> LearnerMetrics:
    learner = Learner(PRESETS["cpu"], torch.device("cpu"))
    metrics = LearnerMetrics(meanings={**Contrastive.meanings, **BabyAgent.meanings})
    metrics.probed(0, "digits", "student", {"knn": 0.0}, 1.0)
    metrics.registry.register(MemoryMetrics(learner))
    return metrics


def _stream(devices: int) -> StreamMetrics:
    """Of so many devices, of which everything is known."""
    device = DeviceStats(
        epoch="0" * 32, next_seq=1, received=1, clock_offset_ns=0, clock_error_ns=0, battery=1.0, temperature_c=20.0
    )
    names = tuple(f"rig{number}" for number in range(devices))
    stats = SourceStats(devices=dict.fromkeys(names, device), endpoints=names)
    return StreamMetrics(lambda: stats, lambda: 0)


def _tell_cost(settings: MetricsSettings) -> int:
    """Shares of a core, of the rig and of a learner of one device, in CPU time of this thread."""
    share_of: dict[str, Callable[[], float]] = {
        "rig": _rig_share,
        "learner of 1 rig": partial(_learner_share, 1),
        f"learner of {MAX_DEVICES_SHOWN} rigs": partial(_learner_share, MAX_DEVICES_SHOWN),
    }
    shares = {name: statistics.median(share() for _ in range(settings.rounds)) for name, share in share_of.items()}
    if settings.json:
        sys.stdout.write(json.dumps(shares) + "\n")
    else:
        said = (f"{name:20} {100 * share:.3f} % of a core" for name, share in shares.items())
        sys.stdout.write("\n".join(said) + "\n")
    return int(max(shares.values()) > MAX_SHARE)


def _rig_share() -> float:
    metrics, verdict = _device(), Verdict("new", None, 0.0)

    def pair() -> None:
        metrics.captured.inc()
        metrics.encoded(1000, 0.001)
        metrics.count(verdict)
        metrics.sent.inc()

    return _cpu_s(pair, 2000) * PAIRS_PER_S + _cpu_s(lambda: _scrape(metrics.registry), 20) / SCRAPE_EVERY_S


def _learner_share(devices: int) -> float:
    """A step for each pair: far more steps than there are, where a batch is not tiny."""
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

    return _cpu_s(step, 2000) * PAIRS_PER_S + _cpu_s(lambda: _scrape(metrics.registry), 20) / SCRAPE_EVERY_S


def _scrape(registry: CollectorRegistry) -> None:
    generate_latest(registry)


def _cpu_s(action: Callable[[], None], times: int) -> float:
    """CPU time of one, seconds."""
    started_s = time.thread_time()
    for _ in range(times):
        action()
    return (time.thread_time() - started_s) / times
