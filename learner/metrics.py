"""What a learner tells Prometheus; the registry is passed in, nothing is global."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from learner.errors import SettingsError
from learner.loop import Learner, StepReport
from stream.source import Source
from stream.subscriber import Subscriber

_STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_PAUSE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_COMMIT_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)


class LearnerMetrics:
    """Counters and gauges of one learner under `babyagent_learner_`, in `registry` (its own one by default)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
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
        self.failed_probes = self._counter("failed_probes", "Probes that ended with an error; training goes on.")
        self.loss = self._gauge("loss", "Mean loss of the last step's pairs.")
        self.grad_norm = self._gauge("gradient_norm", "Norm of the last step's gradient before clipping.")
        self.rate = self._gauge("learning_rate", "Learning rate of the last step.")
        self.gauges = self._gauge("objective", "Gauges of the objective at the last step, by name.", "gauge")
        self.probe = self._gauge(
            "probe_accuracy_ratio", "Accuracy of the last probe, 0 to 1.", "control", "encoder", "probe"
        )

    def step(self, report: StepReport, samples: int) -> None:
        """Record a step that drew so many samples."""
        self.busy.inc(report.busy_s)
        self.waited.inc(report.waited_s)
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
        for name, value in report.gauges.items():
            self.gauges.labels(name).set(value)

    def committed(self, seconds: float) -> None:
        """Record a commit that became durable so long after its state was copied."""
        self.commits.inc()
        self.commit_seconds.observe(seconds)

    def probed(self, control: str, encoder: str, accuracies: dict[str, float]) -> None:
        """Record a probe's accuracies by name."""
        for probe, accuracy in accuracies.items():
            self.probe.labels(control, encoder, probe).set(accuracy)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"babyagent_learner_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"babyagent_learner_{name}", text, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        gauge = Gauge(f"babyagent_learner_{name}", text, labels, registry=self.registry)
        if not labels:
            gauge.set(math.nan)  # before the first step nothing is known: a loss of 0 would look perfect
        return gauge


class Accounts(Collector):
    """What a subscriber and the memory count themselves, under `babyagent_stream_` and `babyagent_buffer_`.

    Read when Prometheus asks, so that no count is kept twice: `registry.register(Accounts(learner, source))`.
    """

    def __init__(self, learner: Learner, source: Source) -> None:
        self._learner = learner
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """The present values."""
        if isinstance(self._source, Subscriber):
            yield from _stream(self._source)
        tally = self._learner.tally()
        tiers = GaugeMetricFamily("babyagent_buffer_pairs", "Pairs in memory, by tier.", labels=["tier"])
        tiers.add_metric(["fresh"], tally.waiting)
        tiers.add_metric(["reservoir"], tally.kept)
        yield tiers
        yield _count("buffer_untrained_pairs", "Pairs dropped before their first training step.", tally.untrained)
        yield _count(
            "buffer_quarantined_pairs", "Pairs never drawn again after a loss that was not finite.", tally.quarantined
        )
        yield _count("stream_undecodable_pairs", "Pairs received whose images do not decode.", tally.undecodable)


def _stream(source: Subscriber) -> Iterator[Metric]:
    stats = source.stats()
    devices = stats.devices.values()
    yield _count("stream_received_pairs", "Pairs received.", stats.received)
    yield _count("stream_received_bytes", "Encoded images of the pairs received.", stats.bytes)
    yield _count("stream_lost_pairs", "Holes in the sequence numbers.", stats.lost)
    yield _count("stream_repeated_pairs", "Pairs received twice and dropped.", stats.repeated)
    suppressed, junk = sum(device.suppressed for device in devices), sum(device.junk for device in devices)
    yield _count("stream_suppressed_pairs", "Pairs the devices left out as seen before.", suppressed)
    yield _count("stream_junk_pairs", "Pairs the devices left out as dark or covered.", junk)
    malformed = CounterMetricFamily(
        "babyagent_stream_malformed_messages", "Messages refused, by reason.", labels=["reason"]
    )
    for reason, count in stats.malformed.items():
        malformed.add_metric([reason], count)
    yield malformed
    yield GaugeMetricFamily("babyagent_stream_devices", "Devices heard of.", len(stats.devices))
    yield GaugeMetricFamily(
        "babyagent_stream_backlog_pairs", "Pairs received, not yet taken by the learner.", source.backlog()
    )


def _count(name: str, text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(f"babyagent_{name}", text, value)


@contextmanager
def served(registry: CollectorRegistry, port: int) -> Iterator[None]:
    """Answer http://127.0.0.1:port/metrics meanwhile; 0: do not. Raises SettingsError in one line where it is taken."""
    if not port:
        yield
        return
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"metrics port {port} cannot be used ({error}): choose another --metrics-port, 0 for none"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
