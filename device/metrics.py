"""The metrics of a rig, for Prometheus and for its own progress line."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from device.dedupe import Junk, Verdict
from device.metrics_server import serving
from device.spool.rules import SpoolStats
from stream.errors import EndpointError, EndpointTaken
from stream.live.backfill_messages import Vitals
from stream.live.metrics import by_reason
from stream.pair import Kept
from stream.signals.signal import REASONS

ENCODE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.033, 0.066, 0.133)
"""Upper bounds of the buckets: up to four frames at 30 Hz; a slower rig does not keep up."""
SKEW_BUCKETS_S = (0.00001, 0.0001, 0.001, 0.002, 0.005, 0.01, 0.0167, 0.033, 0.066)
"""Upper bounds of the buckets: from synchronised shutters (tens of microseconds) to a whole frame."""
SYNC_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Upper bounds of the buckets: from a good SSD to a card that is about to fail."""
PREFIX = "babyagent_device"
FAILED = "failed"
SIGNAL_REASONS = (*REASONS, FAILED)
"""Those of `stream.signals.signal`, and that the function which reads signals has raised an error."""


@dataclass(frozen=True, slots=True)
class CaptureCounts:
    """Numbers of shots since the start: captured = kept + suppressed + junk + bad."""

    captured: int
    kept: int
    suppressed: int
    junk: int
    bad: int


class DeviceMetrics:
    """The rig's counters, gauges and histograms, in a registry of their own by default."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        ProcessCollector(registry=self.registry)
        self.captured = self._counter("captured_pairs", "Shots of the camera, readable or not.")
        self.kept = self._counter("kept_pairs", "Pairs kept, by reason: new, silence, audit.", "reason")
        self.suppressed = self._counter("suppressed_pairs", "Pairs left out because the rig has seen them before.")
        self.junk = self._counter(
            "junk_pairs", "Pairs left out, by reason: dark (both eyes), covered (one eye).", "reason"
        )
        for reason in get_args(Kept):  # from the start: Prometheus sees no increase in a series that begins at 1
            self.kept.labels(reason)
        for reason in get_args(Junk):
            self.junk.labels(reason)
        self.bad = self._counter("bad_pairs", "Shots left out because an eye could not be read.")
        self.blurred = self._counter("blurred_pairs", "Kept pairs that are blurred.")
        self.refused_signals = self._counter(
            "refused_signals", "Times that something of a signal was left out because it is not valid.", "reason"
        )
        for reason in SIGNAL_REASONS:
            self.refused_signals.labels(reason)
        self.thinned_rows = self._counter(
            "thinned_signal_rows", "Valid rows of signals that were left out because a pair cannot have so many."
        )
        self.sent = self._counter("sent_pairs", "Kept pairs that the queue of at least one subscriber took.")
        self.encode_seconds = self._histogram("encode_seconds", "Time to encode a kept pair.", ENCODE_BUCKETS_S)
        self.skew_seconds = self._histogram(
            "skew_seconds", "Absolute difference of the capture times of right and left eye.", SKEW_BUCKETS_S
        )
        self.sync_seconds = self._histogram(
            "spool_sync_seconds", "Time of a sync, after which pairs survive a power cut.", SYNC_BUCKETS_S
        )
        self.threshold = self._gauge("dedupe_threshold_levels", "Grey levels by which a new pair differs.")
        self.subscribers = self._gauge("subscribers", "Subscribers of the live stream.")

    def encoded(self, skew_ns: int, took_s: float) -> None:
        """Record that a pair was encoded: its skew (right minus left capture time), and the seconds that encoding took."""
        self.skew_seconds.observe(abs(skew_ns) / 1e9)
        self.encode_seconds.observe(took_s)

    def count(self, verdict: Verdict) -> None:
        """Count the decision about a pair."""
        if verdict.junk is not None:
            self.junk.labels(verdict.junk).inc()
        elif verdict.kept is None:
            self.suppressed.inc()
        else:
            self.kept.labels(verdict.kept).inc()
            self.blurred.inc(verdict.blurred)

    def watch_spool(self, spool: Callable[[], SpoolStats], disk_free_bytes: Callable[[], int]) -> None:
        """Export the state of a spool and its disk."""
        self.registry.register(_Collector(partial(_spool_metrics, spool, disk_free_bytes)))

    def watch_sensors(self, vitals: Callable[[], Vitals]) -> None:
        """Export battery and temperature, if they are known."""
        self.registry.register(_Collector(partial(_sensor_metrics, vitals)))

    def watch_handshakes(self, failed_handshakes: Callable[[], Mapping[str, int]]) -> None:
        """Export failed handshakes by reason."""
        self.registry.register(_Collector(partial(_handshake_metrics, failed_handshakes)))

    def counts(self) -> CaptureCounts:
        """Return the present counts."""
        counters = (self.captured, self.kept, self.suppressed, self.junk, self.bad)
        return CaptureCounts(*(_total(counter) for counter in counters))

    @contextmanager
    def served(self, port: int | None) -> Iterator[None]:
        """Serve http://127.0.0.1:port/metrics inside the `with` block, unless the port is 0 or None.

        Raises EndpointTaken if another process uses the port, EndpointError if it is none.
        """
        if not port:
            yield
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(serving(make_wsgi_app(self.registry), port))
            except (OSError, OverflowError) as error:
                is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE  # which may pass
                raise (EndpointTaken if is_taken else EndpointError)(
                    f"cannot serve metrics on 127.0.0.1:{port}: {error}; choose another --metrics-port, 0 for none"
                ) from error
            yield

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, buckets=buckets, registry=self.registry)


class _Collector(Collector):
    """Reads the values of some metrics each time Prometheus asks."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def _spool_metrics(spool: Callable[[], SpoolStats], disk_free_bytes: Callable[[], int]) -> Iterator[Metric]:
    """Yield all metrics of the spool, from one reading of its state."""
    stats = spool()
    gauges = (
        ("spool_bytes", "Bytes that the spool takes on its disk.", stats.bytes),
        ("spool_limit_bytes", "Bytes that the spool may take.", stats.limits.max_bytes),
        ("disk_free_bytes", "Free bytes on the disk of the spool.", disk_free_bytes()),
        ("disk_floor_bytes", "Bytes that the spool leaves free on its disk.", stats.limits.free_floor_bytes),
        ("spool_pairs", "Pairs in the spool.", stats.pairs),
        ("spool_backlog_pairs", "Pairs in the spool that not all consumers have acknowledged.", stats.backlog),
        ("spool_oldest_age_seconds", "Age of the oldest segment.", stats.oldest_age_s),
        ("spool_consumers", "Consumers that pairs are kept for.", stats.consumers),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value)
    yield CounterMetricFamily(f"{PREFIX}_unspooled_pairs", "Pairs that the disk refused: live only.", stats.unspooled)
    text = "Pairs that not all consumers had, by cause: evicted (no room), rot (unreadable)."
    lost = CounterMetricFamily(f"{PREFIX}_lost_pairs", text, labels=["cause"])
    for cause, pairs in stats.lost.items():
        lost.add_metric([cause], pairs)
    yield lost
    text = (
        "Requests of consumers that no pairs are kept for, by reason: name, owner (of another key), places (all taken)."
    )
    yield by_reason(f"{PREFIX}_refused_consumers", text, stats.refused_consumers)


def _sensor_metrics(read: Callable[[], Vitals]) -> Iterator[Metric]:
    vitals = read()
    gauges = (
        ("battery_ratio", "Charge of the battery, 0 to 1, if it is known.", vitals.battery),
        ("temperature_celsius", "Temperature of the hottest sensor, if there is one.", vitals.temperature_c),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value)  # without a sample if the value is None


def _handshake_metrics(failed: Callable[[], Mapping[str, int]]) -> Iterator[Metric]:
    text = "Failed handshakes of learners, and connections that were cut off, by reason."
    yield by_reason(f"{PREFIX}_failed_handshakes", text, failed())


def _total(counter: Counter) -> int:
    """Return the sum of a counter over all labels."""
    samples = (sample for family in counter.collect() for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))
