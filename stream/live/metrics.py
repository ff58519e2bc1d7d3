"""Metrics of a source that receives pairs, for Prometheus, under `babyagent_stream_`.

Counters begin at 0 in each process. The counts of a source continue over restarts, and after a crash they fall back to the last
commit. Prometheus would take that for a restart from 0, and would add the whole count again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from operator import attrgetter

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

    stats: of the source; if it returns None there are no metrics. backlog: pairs that wait to be received by the learner.
    clock: seconds, that of `DeviceStats.last_heard_s`.
    """

    def __init__(
        self,
        stats: Callable[[], SourceStats | None],
        backlog: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stats, self._backlog, self._clock = stats, backlog, clock

    def collect(self) -> Iterator[Metric]:
        """Yield the present values."""
        stats = self._stats()
        if stats is None:
            return
        now, before = stats.devices.values(), stats.before.values()
        for name, (text, count) in _TOTALS.items():
            yield CounterMetricFamily(f"{_PREFIX}_{name}", text, sum(map(count, now)) - sum(map(count, before)))
        yield CounterMetricFamily(f"{_PREFIX}_received_bytes", "Encoded images of the pairs received.", stats.bytes)
        malformed = {reason: stats.malformed.get(reason, 0) for reason in MESSAGE_REASONS}
        failed = {reason: stats.failed_handshakes.get(reason, 0) for reason in HANDSHAKE_REASONS}
        yield by_reason(
            f"{_PREFIX}_malformed_messages", "Messages refused, and signals (signal_*), by reason.", malformed
        )
        text = "Failed handshakes with devices, and connections that were cut off, by reason."
        yield by_reason(f"{_PREFIX}_failed_handshakes", text, failed)
        hidden = max(0, len(stats.devices) - MAX_DEVICES_SHOWN)
        for name, text, value in (
            ("backlog_pairs", "Pairs received that wait for the learner.", self._backlog()),
            ("pending_pairs", "Pairs missing that can still be pulled from a spool.", stats.pending),
            ("endpoints", "Addresses where devices are expected.", len(stats.endpoints)),
            ("devices", "Devices heard of since this process began.", len(stats.heard)),
            ("untold_devices", f"Devices beyond the first {MAX_DEVICES_SHOWN}: in the totals only.", hidden),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, value)
        yield from self._by_device(dict(islice(stats.devices.items(), MAX_DEVICES_SHOWN)), stats.before)

    def _by_device(self, devices: Mapping[str, DeviceStats], before: Mapping[str, DeviceStats]) -> Iterator[Metric]:
        for name, (text, count) in _DEVICE_COUNTS.items():
            counter = CounterMetricFamily(f"{_PREFIX}_device_{name}", text, labels=["device"])
            for device, stats in devices.items():
                counter.add_metric([device], count(stats) - count(before.get(device, _NO_STATS)))
            yield counter
        for name, (text, measure) in {**_DEVICE_GAUGES, "silent_seconds": (_SILENT, self._silent_s)}.items():
            gauge = GaugeMetricFamily(f"{_PREFIX}_device_{name}", text, labels=["device"])
            for device, stats in devices.items():
                if (value := measure(stats)) is not None:
                    gauge.add_metric([device], value)
            yield gauge

    def _silent_s(self, device: DeviceStats) -> float | None:
        return device.silent_s(self._clock())


def by_reason(name: str, text: str, counts: Mapping[str, int]) -> Metric:
    """Return a count with the label `reason`.

    Pass every reason from the start, with 0: Prometheus misses the first increase of a new series.
    """
    family = CounterMetricFamily(name, text, labels=["reason"])
    for reason, count in counts.items():
        family.add_metric([reason], count)
    return family


def _all_lost(device: DeviceStats) -> int:
    """Return the number of pairs that were ever counted as lost, those included that were received later.

    A counter of Prometheus must not decrease; the returned pairs have a counter of their own.
    """
    return device.lost + device.returned


def _seconds(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / 1e9


_PREFIX = "babyagent_stream"
_NO_STATS = DeviceStats(epoch="", next_seq=0)
_TOTALS: dict[str, tuple[str, Callable[[DeviceStats], int]]] = {
    "received_pairs": ("Pairs received.", attrgetter("received")),
    "lost_pairs": ("Pairs lost for good.", _all_lost),
    "returned_pairs": ("Pairs that were counted as lost and received later.", attrgetter("returned")),
    "repeated_pairs": ("Pairs received twice and dropped.", attrgetter("repeated")),
    "suppressed_pairs": ("Pairs the devices left out as seen before.", attrgetter("suppressed")),
    "junk_pairs": ("Pairs the devices left out as dark or covered.", attrgetter("junk")),
    "clock_steps": ("Times a device's clock went back.", attrgetter("clock_steps")),
}
_DEVICE_COUNTS: dict[str, tuple[str, Callable[[DeviceStats], int]]] = {
    "received_pairs": ("Pairs received from a device.", attrgetter("received")),
    "lost_pairs": ("Pairs of a device lost for good.", _all_lost),
}
_SILENT = (
    "Seconds since a device's last pair or reply; none once its stream has ended, or if this process never heard of it."
)
_CLOCK = "A device's clock minus the learner's, where it has a spool."
_CLOCK_ERROR = "Bound of the error of device_clock_offset_seconds: half the time the request took."
_BATTERY = "Charge of a device's battery, 0 to 1, as last reported; only where it has a spool."
_TEMPERATURE = "A device's hottest sensor, as last reported; only where it has a spool."
_DEVICE_GAUGES: dict[str, tuple[str, Callable[[DeviceStats], float | None]]] = {
    "pending_pairs": ("Pairs of a device that can still be pulled.", attrgetter("pending")),
    "clock_offset_seconds": (_CLOCK, lambda device: _seconds(device.clock_offset_ns)),
    "clock_error_seconds": (_CLOCK_ERROR, lambda device: _seconds(device.clock_error_ns)),
    "battery_ratio": (_BATTERY, attrgetter("battery")),
    "temperature_celsius": (_TEMPERATURE, attrgetter("temperature_c")),
}
"""Metrics by name: the help text, and how the value is read."""
