"""What a receiving end tells Prometheus: counts of this process that never fall, devices by name up to a bound."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from rig_model import pair

from stream import pair as datum
from stream.live.announcements import Bye, Hello
from stream.live.backfill_messages import Span, SpansReply
from stream.live.ledger import Ledger
from stream.live.metrics import MAX_DEVICES_SHOWN, StreamMetrics
from stream.stats import DeviceStats, SourceStats
from stream.transport import handshake

EPOCH = "0" * 32


def told(stats: SourceStats | Ledger, *, before: SourceStats | None = None, now_s: float = 0.0) -> CollectorRegistry:
    """A registry with the metrics of an ledger, begun at time 0."""
    now = [0.0]
    registry = CollectorRegistry()

    def read() -> SourceStats:
        present = stats.stats() if isinstance(stats, Ledger) else stats
        return replace(present, endpoints=("tcp://a:1", "tcp://b:1"), before={} if before is None else before.devices)

    metrics = StreamMetrics(read, lambda: 3, clock=lambda: now[0])
    now[0] = now_s
    registry.register(metrics)
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    found: float | None = registry.get_sample_value(f"babyagent_stream_{name}", labels)
    return found


def test_a_pair_that_comes_after_it_was_given_up_does_not_make_a_count_fall() -> None:
    ledger = Ledger()
    for seq in (0, 3):
        ledger.receive(pair(seq), 0.0)
    ledger.receive_announcement(Hello(device="baby", epoch=EPOCH, next_seq=4), 0.0)
    registry = told(ledger)
    assert value(registry, "lost_pairs_total") == value(registry, "device_lost_pairs_total", device="baby") == 2
    ledger.receive(pair(1), 0.0)
    assert ledger.stats().lost == 1
    assert value(registry, "lost_pairs_total") == value(registry, "device_lost_pairs_total", device="baby") == 2
    assert value(registry, "returned_pairs_total") == 1


def test_counts_are_those_of_this_process_since_a_crash_would_make_the_others_fall() -> None:
    earlier = Ledger()
    earlier.receive_announcement(Hello(device="baby", epoch=EPOCH, next_seq=0), 0.0)
    pairs = [pair(seq) for seq in (0, 5)]
    earlier.deliver([one for one in pairs if earlier.receive(one, 0.0)])
    ledger = Ledger(earlier.cursor())
    registry = told(ledger, before=ledger.stats())
    assert ledger.stats().received == 2
    assert value(registry, "received_pairs_total") == value(registry, "lost_pairs_total") == 0
    ledger.receive(pair(6), 1.0)
    assert value(registry, "received_pairs_total") == 1
    assert value(registry, "device_received_pairs_total", device="baby") == 1


def test_silence_is_counted_from_the_last_sign_of_life_of_devices_that_this_process_has_heard_of() -> None:
    ledger = Ledger()
    ledger.receive(pair(0), 4.0)
    assert value(told(ledger, now_s=10.0), "device_silent_seconds", device="baby") == pytest.approx(6.0)
    known = Ledger(ledger.cursor())
    assert value(told(known, now_s=10.0), "device_silent_seconds", device="baby") is None
    assert value(told(known), "devices") == 0
    nothing_new = SpansReply(2, "baby", [Span(EPOCH, 0, 1, True)], 0, 0)
    ledger.receive_spans(nothing_new, 0, 9.0, 0)  # in the dark, or of a rig that keeps few pairs
    assert value(told(ledger, now_s=10.0), "device_silent_seconds", device="baby") == pytest.approx(1.0)
    ledger.receive_announcement(Bye(device="baby", epoch=EPOCH, next_seq=1), 5.0)
    assert value(told(ledger, now_s=10.0), "device_silent_seconds", device="baby") is None
    assert value(told(ledger), "devices") == 1


def test_a_clock_that_is_not_known_is_left_out_and_one_that_is_tells_its_error() -> None:
    known = DeviceStats(epoch=EPOCH, next_seq=0, clock_offset_ns=-1_500_000_000, clock_error_ns=2_000_000)
    registry = told(SourceStats(devices={"a": known, "b": DeviceStats(epoch=EPOCH, next_seq=0)}))
    assert value(registry, "device_clock_offset_seconds", device="a") == -1.5
    assert value(registry, "device_clock_error_seconds", device="a") == 0.002
    assert value(registry, "device_clock_offset_seconds", device="b") is None


def test_battery_and_temperature_are_told_where_they_are_known() -> None:
    known = DeviceStats(epoch=EPOCH, next_seq=0, battery=0.25, temperature_c=71.5)
    registry = told(SourceStats(devices={"a": known, "b": DeviceStats(epoch=EPOCH, next_seq=0)}))
    assert value(registry, "device_battery_ratio", device="a") == 0.25
    assert value(registry, "device_temperature_celsius", device="a") == 71.5
    assert value(registry, "device_battery_ratio", device="b") is None
    assert value(registry, "device_temperature_celsius", device="b") is None


def test_devices_beyond_the_bound_are_in_the_totals_and_counted_but_have_no_series() -> None:
    devices = {
        f"rig{n}": DeviceStats(epoch=EPOCH, next_seq=1, received=1, last_heard_s=1.0)
        for n in range(MAX_DEVICES_SHOWN + 5)
    }
    registry = told(SourceStats(devices=devices))
    names = [
        sample.labels["device"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "babyagent_stream_device_received_pairs_total"
    ]
    assert names == [f"rig{n}" for n in range(MAX_DEVICES_SHOWN)]
    assert value(registry, "received_pairs_total") == value(registry, "devices") == MAX_DEVICES_SHOWN + 5
    assert value(registry, "untold_devices") == 5


def test_every_reason_is_there_from_the_start_so_that_its_first_count_is_an_increase() -> None:
    registry = told(SourceStats(malformed={"crc": 2}, failed_handshakes={"refused": 1}))
    malformed = {reason: value(registry, "malformed_messages_total", reason=reason) for reason in datum.REASONS}
    assert malformed == dict.fromkeys(datum.REASONS, 0) | {"crc": 2}
    failed = {reason: value(registry, "failed_handshakes_total", reason=reason) for reason in handshake.REASONS}
    assert failed == dict.fromkeys(handshake.REASONS, 0) | {"refused": 1}
    assert (value(registry, "backlog_pairs"), value(registry, "endpoints")) == (3, 2)
