"""Metrics of a source that receives pairs, for Prometheus, under `babyagent_stream_`.

Counts are those of this process. A count that goes on over restarts falls back to the last commit after a crash, which Prometheus
would take for a restart from 0, and add as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from prometheus_client import disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stream.pair import REASONS as MESSAGE_REASONS
from stream.stats import DeviceStats, SourceStats
from stream.transport.handshake import REASONS as HANDSHAKE_REASONS

# It would be a second series for each count, which nothing uses. The switch is for the whole process.
disable_created_metrics()  # type: ignore[no-untyped-call]

MAX_DEVICES_SHOWN = 64
"""Device names come from the network, so only the first devices have series of their own; all of them are in the totals."""


class StreamMetrics(Collector):
    """Reads the statistics of a source when Prometheus asks, so that no count is kept twice.

    stats: of the source; where it returns None there are no metrics. backlog: pairs that wait to be received by the learner.
    clock: seconds, that of `DeviceStats.last_received_s`.
    """

    def __init__(
        self,
        stats: Callable[[], SourceStats | None],
        backlog: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stats, self._backlog, self._clock = stats, backlog, clock
        self._started_s = clock()

    def collect(self) -> Iterator[Metric]:
        """The present values."""
        stats = self._stats()
        if stats is None:
            return
        yield from self._totals(stats)
        malformed = {reason: stats.malformed.get(reason, 0) for reason in MESSAGE_REASONS}
        failed = {reason: stats.failed_handshakes.get(reason, 0) for reason in HANDSHAKE_REASONS}
        yield by_reason(f"{_PREFIX}_malformed_messages", "Messages refused, by reason.", malformed)
        yield by_reason(
            f"{_PREFIX}_failed_handshakes",
            "Handshakes with devices that failed, by reason: another key, none, or hung up.",
            failed,
        )
        yield _gauge("backlog_pairs", "Pairs received, not yet taken by the learner.", self._backlog())
        yield _gauge("pending_pairs", "Pairs missing that can still be pulled from a spool.", stats.pending)
        yield _gauge("endpoints", "Addresses where devices are expected.", len(stats.endpoints))
        yield _gauge("devices", "Devices heard of, in this run's earlier processes too.", len(stats.devices))
        untold = max(0, len(stats.devices) - MAX_DEVICES_SHOWN)
        yield _gauge("untold_devices", f"Devices beyond the first {MAX_DEVICES_SHOWN}: in the totals only.", untold)
        told = dict(islice(stats.devices.items(), MAX_DEVICES_SHOWN))
        yield from self._device_counts(told, stats.before)
        yield from self._device_gauges(told)

    def _totals(self, stats: SourceStats) -> Iterator[Metric]:
        devices, before = stats.devices.values(), stats.before.values()

        def total(name: str, text: str, count: Callable[[DeviceStats], int]) -> Metric:
            return CounterMetricFamily(f"{_PREFIX}_{name}", text, sum(map(count, devices)) - sum(map(count, before)))

        yield total("received_pairs", "Pairs received.", lambda device: device.received)
        yield CounterMetricFamily(f"{_PREFIX}_received_bytes", "Encoded images of the pairs received.", stats.bytes)
        yield total("lost_pairs", "Pairs given up: nobody has them any more.", _given_up)
        yield total("returned_pairs", "Pairs given up that came all the same.", lambda device: device.returned)
        yield total("repeated_pairs", "Pairs received twice and dropped.", lambda device: device.repeated)
        yield total("suppressed_pairs", "Pairs the devices left out as seen before.", lambda device: device.suppressed)
        yield total("junk_pairs", "Pairs the devices left out as dark or covered.", lambda device: device.junk)
        yield total("clock_steps", "Times a device's clock went back.", lambda device: device.clock_steps)

    def _device_counts(self, devices: Mapping[str, DeviceStats], before: Mapping[str, DeviceStats]) -> Iterator[Metric]:
        nothing = DeviceStats(epoch="", next_seq=0)

        def counted(name: str, text: str, count: Callable[[DeviceStats], int]) -> Metric:
            family = CounterMetricFamily(f"{_PREFIX}_device_{name}", text, labels=["device"])
            for device, stats in devices.items():
                family.add_metric([device], count(stats) - count(before.get(device, nothing)))
            return family

        yield counted("received_pairs", "Pairs received from a device.", lambda device: device.received)
        yield counted("lost_pairs", "Pairs of a device given up.", _given_up)

    def _device_gauges(self, devices: Mapping[str, DeviceStats]) -> Iterator[Metric]:
        now_s = self._clock()

        def silent_s(device: DeviceStats) -> float | None:
            if device.ended:
                return None
            return now_s - (self._started_s if device.last_received_s is None else device.last_received_s)

        def shown(name: str, text: str, value: Callable[[DeviceStats], float | None]) -> Metric:
            family = GaugeMetricFamily(f"{_PREFIX}_device_{name}", text, labels=["device"])
            for device, stats in devices.items():
                known = value(stats)
                if known is not None:
                    family.add_metric([device], known)
            return family

        yield shown("pending_pairs", "Pairs of a device that can still be pulled.", lambda device: device.pending)
        yield shown(
            "silent_seconds",
            "Since a device's last live pair, or since this process began; none once its stream is over.",
            silent_s,
        )
        yield shown(
            "clock_offset_seconds",
            "A device's clock minus the learner's, where it has a spool to ask.",
            lambda device: _seconds(device.clock_offset_ns),
        )
        yield shown(
            "clock_error_seconds",
            "Bound of the error of device_clock_offset_seconds: half the time the question took.",
            lambda device: _seconds(device.clock_error_ns),
        )
        yield shown(
            "battery_ratio",
            "Charge of a device's battery, 0 to 1, as it told last; it needs a spool to be asked.",
            lambda device: device.battery,
        )
        yield shown(
            "temperature_celsius",
            "A device's hottest sensor, as it told last; it needs a spool to be asked.",
            lambda device: device.temperature_c,
        )


_PREFIX = "babyagent_stream"


def _given_up(device: DeviceStats) -> int:
    """A Prometheus count never falls, so pairs that were lost first and received later are counted separately."""
    return device.lost + device.returned


def _seconds(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / 1e9


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, value)


def by_reason(name: str, text: str, counts: Mapping[str, int]) -> Metric:
    """Return a count with the label `reason`. Give every reason from the start: Prometheus misses an increase from nothing."""
    family = CounterMetricFamily(name, text, labels=["reason"])
    for reason, count in counts.items():
        family.add_metric([reason], count)
    return family
