"""What Prometheus sees: documented names, counters that are counts."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import pytest
from learner_state import trained
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tiny_learner import EPOCH, TINY, make_pair, make_pairs, tiny_learner

from learner.loop import StepReport, Waiting, learn
from learner.metrics import LearnerMetrics, MemoryMetrics
from learner.objectives.contract import Meaning
from learner.objectives.table import OBJECTIVES
from stream.live.metrics import StreamMetrics
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair
from stream.stats import DeviceStats

NAME = re.compile(r"(babyagent_(learner|stream|buffer)|process)_[a-z_]+")


def values(text: str) -> dict[str, float]:
    """Each sample of an exposition by its name and labels."""
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {name_of(sample.name, sample.labels): sample.value for sample in samples}


def name_of(name: str, labels: dict[str, str]) -> str:
    inside = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


def report(**changed: object) -> StepReport:
    figures = {"step": 1, "samples": 8, "received": 8, "loss": 2.5, "grad_norm": 0.5, "learning_rate": 1e-3}
    return StepReport(**(figures | changed))  # type: ignore[arg-type]


def test_steps_are_counted_and_their_last_figures_shown() -> None:
    registry = CollectorRegistry()
    metrics = LearnerMetrics(
        registry, meanings={"kl": Meaning("nats", "Mean KL."), "cosine": Meaning("", "Mean cosine.")}
    )
    metrics.step(report(busy_s=0.2, waited_s=1.0, gauges={"kl": 0.3, "cosine": 0.5}), 8)
    metrics.step(report(step=2, busy_s=0.3, waited_s=0.5, loss=2.0, gauges={"kl": 0.1}), 8)
    metrics.step(report(rolled_back="collapsed", loss=2.0, gauges={"kl": 0.1}), 8)
    metrics.step(report(step=3, loss=float("nan"), refused=("baby/1",)), 8)
    metrics.probed(3, "digits", "student", {"knn": 0.75}, 17.5)
    found = values(generate_latest(registry).decode())
    assert found["babyagent_learner_steps_total"] == 3
    assert found["babyagent_learner_rollbacks_total"] == 1
    assert found["babyagent_learner_refused_steps_total"] == 1
    assert found["babyagent_learner_samples_total"] == 24
    assert found["babyagent_learner_busy_seconds_total"] == pytest.approx(0.5)
    assert found["babyagent_learner_waited_seconds_total"] == pytest.approx(1.5)
    assert found["babyagent_learner_step_seconds_count"] == 4
    assert found["babyagent_learner_loss"] == 2.0
    assert found["babyagent_learner_gradient_norm"] == 0.5
    assert found["babyagent_learner_learning_rate"] == 1e-3
    assert found["babyagent_learner_objective_kl_nats"] == 0.1
    assert found["babyagent_learner_objective_cosine"] == 0.5
    assert found["babyagent_learner_probe_step"] == 3
    assert found["babyagent_learner_probe_effective_rank{control=digits,encoder=student}"] == 17.5
    assert found["babyagent_learner_probe_accuracy_ratio{control=digits,encoder=student,probe=knn}"] == 0.75


def test_a_wait_is_counted_while_it_lasts_and_once() -> None:
    metrics = LearnerMetrics()
    for waited_s in (1.0, 4.0):
        metrics.waiting(Waiting(received=8, wanted=1, waited_s=waited_s))
    assert metrics.registry.get_sample_value("babyagent_learner_waited_seconds_total") == pytest.approx(4.0)
    metrics.step(report(busy_s=0.2, waited_s=5.0), 8)
    metrics.step(report(busy_s=0.2, waited_s=0.5), 8)
    assert metrics.registry.get_sample_value("babyagent_learner_waited_seconds_total") == pytest.approx(5.5)


def test_the_time_from_capture_to_the_first_step_goes_by_the_learners_clock() -> None:
    """A device whose clock is 2 s ahead; one whose clock nobody knows is left out."""
    metrics = LearnerMetrics(wall_ns=lambda: 10_000_000_000)
    ahead = DeviceStats(epoch=EPOCH, next_seq=2, clock_offset_ns=2_000_000_000)
    unknown = DeviceStats(epoch=EPOCH, next_seq=1)
    fresh = [("ahead", 11_800_000_000), ("ahead", 12_000_000_001), ("unknown", 9_000_000_000), ("nobody", 0)]
    metrics.fresh_trained(fresh, {"ahead": ahead, "unknown": unknown})
    found = values(generate_latest(metrics.registry).decode())
    assert found["babyagent_learner_capture_to_gradient_seconds_count"] == 2
    assert found["babyagent_learner_capture_to_gradient_seconds_sum"] == pytest.approx(0.2)  # the other is not negative
    assert found["babyagent_learner_capture_to_gradient_seconds_bucket{le=0.1}"] == 1


def test_every_pair_has_one_first_step_which_names_its_device_and_capture_time() -> None:
    steps = trained(tiny_learner(), make_pairs(12))
    assert [captured for step in steps for captured in step.fresh] == [("baby", seq) for seq in range(12)]


@pytest.mark.parametrize("name", ["babyagent", "contrastive"])
def test_a_shipped_objective_says_what_each_of_its_gauges_means(name: str) -> None:
    objective = dataclasses.replace(TINY, objective=small(OBJECTIVES[name].settings()))
    learner = tiny_learner(objective)
    assert learner.trainer.meanings.keys() == trained(learner, make_pairs(8))[-1].gauges.keys()


def small(objective: Any) -> Any:
    """The objective with views as small as the tiny learner's."""
    return dataclasses.replace(objective, crops=2, attention_size=24, teacher_size=16, student_size=16, hidden=32)


def test_what_came_and_what_is_held_is_read_when_it_is_asked_for() -> None:
    learner = tiny_learner()
    registry = CollectorRegistry()
    broken = make_pair(11)
    pairs = [*(make_pair(seq, suppressed=2) for seq in range(10)), EncodedPair(broken.header, b"x", broken.right)]
    with (
        Publisher("tcp://127.0.0.1:0", device="baby", epoch=EPOCH, on_full="wait") as publisher,
        Subscriber([publisher.endpoint], end_on_bye=True) as source,
    ):
        registry.register(MemoryMetrics(learner))
        registry.register(StreamMetrics(source.stats, source.backlog))
        empty = values(generate_latest(registry).decode())
        assert empty["babyagent_stream_received_pairs_total"] == 0
        for pair in pairs:
            publisher.send(pair)
        publisher.bye()
        for _ in learn(learner, source, clock=time.monotonic):
            pass
        found = values(generate_latest(registry).decode())
    assert found["babyagent_stream_received_pairs_total"] == 10
    assert found["babyagent_stream_received_bytes_total"] > 1000
    assert found["babyagent_stream_malformed_messages_total{reason=crc}"] == 1
    assert found["babyagent_stream_suppressed_pairs_total"] == 20
    assert found["babyagent_stream_lost_pairs_total"] == 2  # number 10 was never sent, 11 came damaged
    assert found["babyagent_stream_repeated_pairs_total"] == found["babyagent_stream_junk_pairs_total"] == 0
    assert found["babyagent_stream_undecodable_pairs_total"] == 0
    assert found["babyagent_stream_devices"] == 1
    assert found["babyagent_stream_backlog_pairs"] == 0
    assert found["babyagent_buffer_pairs{tier=reservoir}"] + found["babyagent_buffer_pairs{tier=fresh}"] == 10
    assert found["babyagent_buffer_dropped_fresh_pairs_total"] == found["babyagent_buffer_quarantined_pairs_total"] == 0


def test_every_name_is_the_houses_and_every_count_is_a_counter() -> None:
    learner = tiny_learner()
    metrics = LearnerMetrics()
    trained(learner, make_pairs(8))
    with Subscriber(["tcp://127.0.0.1:9"]) as source:
        metrics.registry.register(MemoryMetrics(learner))
        metrics.registry.register(StreamMetrics(source.stats, source.backlog))
        families = list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))
    assert len(families) > 20
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert NAME.fullmatch(family.name), family.name
        assert not family.name.endswith("_created")  # the client's second series for each count
        if family.name.startswith("process_"):
            continue  # the client library's
        counts = any(sample.name.endswith("_total") for sample in family.samples)
        assert counts == (family.type == "counter" and bool(family.samples)), family.name
