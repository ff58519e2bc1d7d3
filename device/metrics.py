"""What the rig counts, for Prometheus and for its own progress line: one set of counters, declared here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from device.dedupe import Junk, Verdict
from device.spool.rules import SpoolStats
from stream.errors import EndpointError
from stream.live.backfill_messages import Vitals
from stream.live.metrics import by_reason
from stream.pair import Kept

ENCODE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.033, 0.066, 0.133)
"""Up to four frames at 30 Hz: beyond that the rig does not keep up."""
SKEW_BUCKETS_S = (0.00001, 0.0001, 0.001, 0.002, 0.005, 0.01, 0.0167, 0.033, 0.066)
"""From synchronised shutters (tens of microseconds) to a whole frame apart."""
SYNC_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""From a good SSD to a card that is about to die."""


@dataclass(frozen=True, slots=True)
class CaptureCounts:
    """Counts so far: captured = kept + suppressed + junk + bad."""

    captured: int
    kept: int
    suppressed: int
    junk: int
    bad: int


class DeviceMetrics:
    """The rig's counters, gauges and histograms in `registry` (its own one by default)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        ProcessCollector(registry=self.registry)
        self.captured = self._counter("captured_pairs", "Pairs that the camera gave, readable or not.")
        self.kept = self._counter("kept_pairs", "Pairs kept, by reason: new, silence, audit.", "reason")
        self.suppressed = self._counter("suppressed_pairs", "Pairs left out because they were seen before.")
        self.junk = self._counter("junk_pairs", "Pairs left out by reason: dark (both eyes), covered (one).", "reason")
        for reason in get_args(Kept):  # from the start: of a series that begins at 1 Prometheus sees no increase
            self.kept.labels(reason)
        for reason in get_args(Junk):
            self.junk.labels(reason)
        self.bad = self._counter("bad_pairs", "Pairs left out because an eye could not be read.")
        self.blurred = self._counter("blurred_pairs", "Kept pairs that are blurred.")
        self.sent = self._counter("sent_pairs", "Kept pairs that at least one subscriber's queue took.")
        self.encode_seconds = self._histogram("encode_seconds", "Time to encode a kept pair.", ENCODE_BUCKETS_S)
        self.skew_seconds = self._histogram("skew_seconds", "Right minus left capture time, absolute.", SKEW_BUCKETS_S)
        self.sync_seconds = self._histogram(
            "spool_sync_seconds", "Time to make pairs survive a power cut.", SYNC_BUCKETS_S
        )
        self.threshold = Gauge(
            "babyagent_device_dedupe_threshold_levels", "Grey levels that count as new.", registry=self.registry
        )
        self.subscribers = Gauge("babyagent_device_subscribers", "Learners that listen.", registry=self.registry)

    def encoded(self, skew_ns: int, took_s: float) -> None:
        """Note a pair's skew, right minus left eye, and the time its encoding took."""
        self.skew_seconds.observe(abs(skew_ns) / 1e9)
        self.encode_seconds.observe(took_s)

    def count(self, verdict: Verdict) -> None:
        """Count what dedupe said of a pair."""
        if verdict.junk is not None:
            self.junk.labels(verdict.junk).inc()
        elif verdict.kept is None:
            self.suppressed.inc()
        else:
            self.kept.labels(verdict.kept).inc()
            self.blurred.inc(verdict.blurred)

    def watch_spool(self, spool: Callable[[], SpoolStats], disk_free_bytes: Callable[[], int]) -> None:
        """Report a spool and its disk as they are whenever somebody asks."""
        self.registry.register(_SpoolCollector(spool, disk_free_bytes))

    def watch_sensors(self, vitals: Callable[[], Vitals]) -> None:
        """Report battery and temperature, where they are known, whenever somebody asks."""
        self.registry.register(_SensorCollector(vitals))

    def watch_handshakes(self, failed_handshakes: Callable[[], Mapping[str, int]]) -> None:
        """Report handshakes that failed, by reason, whenever somebody asks."""
        self.registry.register(_HandshakeCollector(failed_handshakes))

    def counts(self) -> CaptureCounts:
        """The counts as they are now."""
        counters = (self.captured, self.kept, self.suppressed, self.junk, self.bad)
        return CaptureCounts(*(_total(counter) for counter in counters))

    @contextmanager
    def served(self, port: int | None) -> Iterator[None]:
        """Answer http://127.0.0.1:port/metrics meanwhile; None or 0: do not. Raises EndpointError if it is taken."""
        if not port:
            yield
            return
        try:
            server, thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except (OSError, OverflowError) as error:
            raise EndpointError(
                f"cannot serve metrics on 127.0.0.1:{port}: {error}; choose another --metrics-port, 0 for none"
            ) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"babyagent_device_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"babyagent_device_{name}", text, buckets=buckets, registry=self.registry)


class _SpoolCollector(Collector):
    """One look at the spool for all that is said of it."""

    def __init__(self, spool: Callable[[], SpoolStats], disk_free_bytes: Callable[[], int]) -> None:
        self._spool = spool
        self._disk_free_bytes = disk_free_bytes

    def collect(self) -> Iterator[Metric]:
        spool, name = self._spool(), "babyagent_device"
        yield GaugeMetricFamily(f"{name}_spool_bytes", "What the spool takes on its disk.", spool.bytes)
        yield GaugeMetricFamily(f"{name}_spool_limit_bytes", "Most that the spool may take.", spool.max_bytes)
        yield GaugeMetricFamily(f"{name}_disk_free_bytes", "Free on the disk of the spool.", self._disk_free_bytes())
        yield GaugeMetricFamily(
            f"{name}_disk_floor_bytes", "What the spool leaves free on its disk.", spool.free_floor_bytes
        )
        yield GaugeMetricFamily(f"{name}_spool_pairs", "Pairs in the spool.", spool.pairs)
        yield GaugeMetricFamily(
            f"{name}_spool_backlog_pairs", "Pairs in the spool that not all learners have acknowledged.", spool.backlog
        )
        yield GaugeMetricFamily(f"{name}_spool_oldest_age_seconds", "Age of the oldest segment.", spool.oldest_age_s)
        yield GaugeMetricFamily(f"{name}_spool_consumers", "Learners that pairs are kept for.", spool.consumers)
        yield CounterMetricFamily(f"{name}_unspooled_pairs", "Pairs that the disk refused: live only.", spool.unspooled)
        text = "Pairs that not all learners had, by cause: evicted (no room), rot (cannot be read)."
        lost = CounterMetricFamily(f"{name}_lost_pairs", text, labels=["cause"])
        for cause, pairs in spool.lost.items():
            lost.add_metric([cause], pairs)
        yield lost


class _SensorCollector(Collector):
    """Battery and temperature of the rig."""

    def __init__(self, vitals: Callable[[], Vitals]) -> None:
        self._vitals = vitals

    def collect(self) -> Iterator[Metric]:
        vitals, name = self._vitals(), "babyagent_device"
        yield _known(f"{name}_battery_ratio", "Charge of the battery, 0 to 1, where it is known.", vitals.battery)
        yield _known(f"{name}_temperature_celsius", "The hottest sensor, where there is one.", vitals.temperature_c)


class _HandshakeCollector(Collector):
    """The handshakes that failed at the rig's door."""

    def __init__(self, failed_handshakes: Callable[[], Mapping[str, int]]) -> None:
        self._failed_handshakes = failed_handshakes

    def collect(self) -> Iterator[Metric]:
        text = "Handshakes of learners that failed, by reason: another key, none, or hung up."
        yield by_reason("babyagent_device_failed_handshakes", text, self._failed_handshakes())


def _known(name: str, text: str, value: float | None) -> Metric:
    """A gauge without a sample where its value is not known."""
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], value)
    return family


def _total(counter: Counter) -> int:
    """The sum over all labels."""
    samples = (sample for family in counter.collect() for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))
