"""The metrics of a learner for Prometheus. The registry is passed in; nothing is global."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from learner.adapt.forgetting import Judgement
from learner.loop import Learner, Waiting
from learner.objectives.contract import Meaning
from learner.trainer import StepReport
from stream.stats import DeviceStats

_STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_PAUSE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_COMMIT_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)

_LATENCY_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0)
"""Upper bounds of the buckets: from the goal for a live pair (a quarter of a second) to a walk of hours without Wi-Fi."""
NO_MEANINGS: Mapping[str, Meaning] = {}


class LearnerMetrics:
    """Counters and gauges of one learner under `babyagent_learner_`, in `registry` (its own one by default).

    meanings: of the gauges of the objective; a gauge without one is not exported. wall_ns: nanoseconds since 1970.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        meanings: Mapping[str, Meaning] = NO_MEANINGS,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._wall_ns = wall_ns
        self._waited_s = 0.0  # since the last step, and counted
        ProcessCollector(registry=self.registry)
        self.steps = self._counter("steps", "Training steps taken.")
        self.refused = self._counter("refused_steps", "Steps refused because a loss or gradient was not finite.")
        self.rollbacks = self._counter("rollbacks", "Times the networks went back to a snapshot after a collapse.")
        self.samples = self._counter("samples", "Pairs trained on, with repetition.")
        self.busy = self._counter("busy_seconds", "Time spent decoding and training.")
        self.waited = self._counter("waited_seconds", "Time spent waiting for pairs, the budget being spent.")
        self.step_seconds = self._histogram("step_seconds", "Decoding and training for one step.", _STEP_SECONDS)
        self.commits = self._counter("commits", "Commits made durable.")
        self.pause_seconds = self._histogram("pause_seconds", "Training stopped for a commit.", _PAUSE_SECONDS)
        self.commit_seconds = self._histogram(
            "commit_seconds", "A commit from the copy of the state until it was durable.", _COMMIT_SECONDS
        )
        self.loss = self._gauge("loss", "Mean loss of the last step's pairs.")
        self.grad_norm = self._gauge("gradient_norm", "Norm of the last step's gradient before clipping.")
        self.rate = self._gauge("learning_rate", "Learning rate of the last step.")
        self.gauges = {
            name: self._gauge(f"objective_{name}{meaning.unit and '_'}{meaning.unit}", meaning.text)
            for name, meaning in meanings.items()
        }
        self.latency_seconds = self._histogram(
            "capture_to_gradient_seconds",
            "From a live pair's capture to the end of its first step, by the learner's clock; "
            "as wrong as babyagent_stream_device_clock_error_seconds; pairs of devices whose clock is unknown are left out.",
            _LATENCY_SECONDS,
        )
        self.stalest = self._gauge("stalest_score_steps", "Age of the oldest score in memory, in steps.")
        self.disk_free = self._gauge("disk_free_bytes", "Free on the disk of the run's folder.")
        self.exported_step = self._gauge(
            "exported_step", "The step of the newest good weights in the run's export folder."
        )
        self._define_probes()

    def step(self, report: StepReport, samples: int) -> None:
        """Record a step that drew so many samples."""
        self.busy.inc(report.busy_s)
        self._wait_for(report.waited_s)
        self._waited_s = 0.0
        self.step_seconds.observe(report.busy_s)
        if report.refused:
            self.refused.inc()
            return
        self.steps.inc()
        self.rollbacks.inc(bool(report.rolled_back))
        self.samples.inc(samples)
        self.loss.set(report.loss)
        self.grad_norm.set(report.grad_norm)
        self.rate.set(report.learning_rate)
        for name in self.gauges.keys() & report.gauges.keys():
            self.gauges[name].set(report.gauges[name])

    def waiting(self, event: Waiting) -> None:
        """Record that no step is due, so that a long wait is counted while it lasts."""
        self._wait_for(event.waited_s)

    def _wait_for(self, waited_s: float) -> None:
        """Count the seconds since the last step that were not counted yet."""
        self.waited.inc(max(0.0, waited_s - self._waited_s))
        self._waited_s = waited_s

    def fresh_trained(self, fresh: Iterable[tuple[str, int]], devices: Mapping[str, DeviceStats]) -> None:
        """Record how long ago pairs were captured (device, nanoseconds by its clock) that now had their first step."""
        now_ns = self._wall_ns()
        for name, captured_ns in fresh:
            device = devices.get(name)
            if device is not None and device.clock_offset_ns is not None:
                latency_ns = now_ns - (captured_ns - device.clock_offset_ns)
                self.latency_seconds.observe(max(0, latency_ns) / 1e9)

    def committed(self, seconds: float) -> None:
        """Record a commit that became durable so many seconds after its state was copied."""
        self.commits.inc()
        self.commit_seconds.observe(seconds)

    def probed(self, step: int, control: str, encoder: str, accuracies: Mapping[str, float], rank: float) -> None:
        """Record a probe's accuracies by name, 0 to 1, and the effective rank of its features."""
        self.probe_step.set(step)
        self.probe_rank.labels(control, encoder).set(rank)
        for probe, accuracy in accuracies.items():
            self.probe.labels(control, encoder, probe).set(accuracy)

    def judged(self, found: Judgement) -> None:
        """Record how the networks compare with the start."""
        self.lost.set(found.loss)
        self.forgotten.inc(found.goes_back)

    def probed_stream(self, encoder: str, recalls: Mapping[str, float | None]) -> None:
        """Record the recalls of an encoder, or of the start, by query, 0 to 1; None: not enough pairs yet."""
        for query, recall in recalls.items():
            if recall is not None:
                self.stream_recall.labels(encoder, query).set(recall)

    def _define_probes(self) -> None:
        """Define the metrics of probes, and of the guard against forgetting that acts on them."""
        self.failed_probes = self._counter("failed_probes", "Probes that ended with an error; training goes on.")
        self.forgotten = self._counter(
            "forgetting_rollbacks", "Times the networks went back because control sets were below the start."
        )
        self.probe_rank = self._gauge(
            "probe_effective_rank", "RankMe of the last probe's features, 1 to their width.", "control", "encoder"
        )
        self.lost = self._gauge(
            "forgotten_ratio", "Accuracy that the worst encoder's control sets lost since the start, below 0 gained."
        )
        self.probe_step = self._gauge("probe_step", "The step of the last probe.")
        self.probe = self._gauge(
            "probe_accuracy_ratio", "Accuracy of the last probe, 0 to 1.", "control", "encoder", "probe"
        )
        self.stream_recall = self._gauge(
            "stream_recall_ratio",
            "Share of the held-out pairs that find the right picture, by the features of an encoder or of the start.",
            "encoder",
            "query",
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"babyagent_learner_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"babyagent_learner_{name}", text, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        gauge = Gauge(f"babyagent_learner_{name}", text, labels, registry=self.registry)
        if not labels:
            gauge.set(math.nan)  # before the first step nothing is known: a loss of 0 would look perfect
        return gauge


_DROPPED = {
    "dropped_fresh": ("buffer_dropped_fresh_pairs", "Pairs dropped before their first training step."),
    "quarantined": ("buffer_quarantined_pairs", "Pairs never drawn again after a loss that was not finite."),
    "undecodable": ("stream_undecodable_pairs", "Pairs received whose images do not decode."),
}
"""Counts of `learner.member.PairCounts`, and the names and texts of their metrics."""


class MemoryMetrics(Collector):
    """The pairs in memory, and those dropped, under `babyagent_buffer_`, the run's step, and the budget of pacing.

    They are read when Prometheus asks, so that no count is kept twice: `registry.register(MemoryMetrics(learner))`, before the
    first pair, because counters count from the start of this process (`stream.live.metrics` explains it).
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._before = learner.counts()
        self._forgone_before = learner.pacing.forgone
        self._held_out_before = learner.held_out.count

    def collect(self) -> Iterator[Metric]:
        """Yield the present values."""
        counts, before = self._learner.counts(), self._before
        tiers = GaugeMetricFamily("babyagent_buffer_pairs", "Pairs in memory, by tier.", labels=["tier"])
        tiers.add_metric(["fresh"], counts.fresh)
        tiers.add_metric(["reservoir"], counts.kept)
        yield tiers
        yield GaugeMetricFamily(
            "babyagent_buffer_capacity_pairs", "Pairs that the reservoir holds.", self._learner.config.memory.capacity
        )
        yield GaugeMetricFamily(
            "babyagent_buffer_clips", "Clips that the kept pairs are in; a single pair is one too.", counts.clips
        )
        for field, (name, text) in _DROPPED.items():
            yield _count(name, text, getattr(counts, field) - getattr(before, field))
        held_out = self._learner.held_out.count - self._held_out_before
        yield _count("buffer_held_out_pairs", "Pairs received that are never trained on.", held_out)
        yield GaugeMetricFamily(
            "babyagent_learner_step", "Steps of the run, those before a restart included.", self._learner.steps
        )
        pacing = self._learner.pacing
        yield GaugeMetricFamily(
            "babyagent_learner_owed_samples", "Training samples that the received pairs still allow.", pacing.owed
        )
        yield GaugeMetricFamily(
            "babyagent_learner_collapse_doubt_ratio",
            "How near a rollback after a collapse is: 0 without a sign, 1 when the networks go back.",
            self._learner.trainer.guard.doubt_ratio,
        )
        forgone = pacing.forgone - self._forgone_before
        yield _count("learner_forgone_samples", "Training samples given up: too slow for the replay ratio.", forgone)


def _count(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"babyagent_{name}", text, value)
