"""The regimes bench: its days are what they say, each regime trains on what it should and when, its statistics are right."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.regimes import bench
from benchmarks.regimes.days import RecordedDays, Route
from benchmarks.regimes.figures import Regimes, plot, tables
from benchmarks.regimes.train import (
    FIRST_DECAY,
    LAST_DECAY,
    REGIMES,
    EpochMemory,
    Night,
    TrainedDay,
    continuous,
    nightly,
    shuffled,
)
from benchmarks.shared.recipes import PRESETS
from buffer.index import Keys
from learner.config import LearnerConfig
from learner.loop import Learner, StepReport
from learner.memory.memory import Draw
from learner.objectives.babyagent import BabyAgentConfig

ROAD = Route(days=4, pairs_a_day=24, rooms_a_day=2, size=(32, 48), per_place=3)
NIGHT = Night(trigger_pairs=40, epochs=3, recalled=0.25)
BATCH = 8
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedDays:
    return RecordedDays(tmp_path_factory.mktemp("days"), ROAD, seed=3, textures=None)


def config() -> LearnerConfig:
    preset = PRESETS["babyagent"]
    assert isinstance(preset.objective, BabyAgentConfig)
    return replace(
        preset,
        encoder=replace(preset.encoder, embed_dim=16, depth=1, heads=2),
        objective=replace(preset.objective, crops=2, attention_size=16, teacher_size=16, student_size=8, prototypes=16),
        memory=replace(preset.memory, capacity=64, fresh_capacity=32, canvas=(24, 32)),
        pacing=replace(preset.pacing, batch_size=BATCH),
    )


class Watch:
    """What was drawn at each step, with the rate and the decay of the step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: list[Keys] = []
        self.rates: list[float] = []
        self.decays: list[float] = []
        self.spared = set[float]()
        draw, step = EpochMemory.draw, Learner.step

        def watched_draw(memory: EpochMemory, count: int) -> Draw:
            found = draw(memory, count)
            self.drawn.append(found.keys)
            return found

        def watched_step(learner: Learner, rate_factor: float = 1.0) -> StepReport:
            decayed, *spared = sorted(group["weight_decay"] for group in learner.trainer.optimizer.param_groups)[::-1]
            self.decays.append(decayed)
            self.spared.update(spared)
            report = step(learner, rate_factor)
            self.rates.append(report.learning_rate)
            return report

        monkeypatch.setattr(EpochMemory, "draw", watched_draw)
        monkeypatch.setattr(Learner, "step", watched_step)


def test_days_are_recorded_once_and_each_is_another_world(recorded: RecordedDays, tmp_path: Path) -> None:
    days = list(recorded.days())
    assert [len(pairs) for pairs in days] == [24] * 4
    assert len({pairs[0].left for pairs in days}) == 4
    starts = [pairs[0].header.left_ns for pairs in days]
    assert all(later - earlier > 20 * 3600 * 10**9 for earlier, later in pairwise(starts))
    files = sorted(recorded.folder.iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    again = RecordedDays(recorded.folder.parent, ROAD, seed=3, textures=None)
    assert [file.stat().st_mtime_ns for file in files] == before
    assert [pair.left for pair in again.pairs(2)] == [pair.left for pair in days[2]]


def test_days_of_another_route_are_recorded_again(tmp_path: Path) -> None:
    short = replace(ROAD, days=1, pairs_a_day=2, rooms_a_day=1)
    RecordedDays(tmp_path, short, seed=0, textures=None)
    assert len(RecordedDays(tmp_path, replace(short, pairs_a_day=3), seed=0, textures=None).pairs(0)) == 3


def test_each_room_of_each_day_is_a_class_in_both_halves(recorded: RecordedDays) -> None:
    places = recorded.places(16)
    assert len(places.classes) == ROAD.days * ROAD.rooms_a_day
    assert places.classes[2].startswith("day 2")
    for labels in (places.train_labels, places.test_labels):
        assert Counter(labels.tolist()) == dict.fromkeys(range(8), ROAD.per_place)


def test_a_night_takes_the_new_pairs_and_some_old_ones_for_all_epochs_and_nothing_happens_by_day(
    recorded: RecordedDays, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    steps = [day.learner.steps for day in nightly(config(), recorded, NIGHT, CPU)]
    first, second = 3 * (48 // BATCH), 3 * (60 // BATCH)  # 48 new ones, then 48 and a quarter of that recalled
    assert steps == [0, first, first, first + second]
    one, two = (Counter(np.concatenate(part).tolist()) for part in (watch.drawn[:first], watch.drawn[first:]))
    assert one == dict.fromkeys(range(48), 3)
    old, new = ({key: count for key, count in two.items() if (key < 48) == is_old} for is_old in (True, False))
    assert set(new) == set(range(48, 96))
    assert len(old) <= 12
    assert sum(two.values()) == second * BATCH


def test_rate_and_decay_of_a_night_go_along_the_seeds_cosines(
    recorded: RecordedDays, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    list(nightly(config(), recorded, NIGHT, CPU))
    steps = 3 * (48 // BATCH)
    turn = (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2
    assert watch.rates[:steps] == pytest.approx(config().schedule.learning_rate * turn)
    assert watch.rates[steps] == pytest.approx(config().schedule.learning_rate)  # the next night starts again
    assert watch.decays[:steps] == pytest.approx(LAST_DECAY - (LAST_DECAY - FIRST_DECAY) * turn)


def test_weights_that_the_objective_spares_from_decay_are_spared_at_night_too(
    recorded: RecordedDays, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(config().objective, BabyAgentConfig)
    spares = replace(config(), objective=replace(config().objective, decay_biases=False))
    watch = Watch(monkeypatch)
    list(nightly(spares, recorded, NIGHT, CPU))
    assert any(watch.decays)
    assert watch.spared == {0.0}


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_continuous_training_takes_its_share_of_samples_by_the_evening_of_each_day(
    recorded: RecordedDays, share: float
) -> None:
    for number, day in enumerate(continuous(share)(config(), recorded, NIGHT, CPU), 1):
        owed = share * NIGHT.samples_a_pair * ROAD.pairs_a_day * number
        assert day.learner.received == 24 * number
        assert owed - BATCH <= day.learner.samples <= owed


def test_shuffled_training_takes_as_many_samples_and_every_pair_equally_often(
    recorded: RecordedDays, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    for number, day in enumerate(shuffled(config(), recorded, NIGHT, CPU), 1):
        owed = NIGHT.samples_a_pair * ROAD.pairs_a_day * number
        assert owed - BATCH < day.learner.samples <= owed
    counts = Counter(np.concatenate(watch.drawn).tolist())
    assert set(counts) == set(range(96))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert max(watch.drawn[0]) > 24  # pairs of later days from the first step on


def test_a_pair_waits_for_the_night_or_for_the_next_step(recorded: RecordedDays) -> None:
    nights = [day.waits_h for day in nightly(config(), recorded, NIGHT, CPU)]
    assert [len(waits) for waits in nights] == [0, 48, 0, 48]
    assert max(nights[1]) == pytest.approx(24 + 8 + 1)  # the first of day one until the second evening
    assert min(nights[1]) == pytest.approx(1 + 8 / 24)
    days = [day.waits_h for day in continuous(1.0)(config(), recorded, NIGHT, CPU)]
    waits = np.concatenate([np.array(day) for day in days])
    assert np.all(waits >= 0)
    assert np.median(waits) < 1
    assert len(waits) >= 96 - 3  # the last ones may still wait for their step


def test_every_regime_of_a_seed_begins_with_the_same_weights(recorded: RecordedDays) -> None:
    starts = []
    for change, _ in REGIMES.values():
        learner = Learner(change(config()), CPU)
        starts.append(torch.cat([weight.flatten() for weight in learner.objective.encoders()["student"].parameters()]))
    assert all(torch.equal(start, starts[0]) for start in starts)


def line(regime: str, seed: int, level: float) -> dict[str, Any]:
    """Two days; accuracy grows by .1 a day from `level`, the second control set is .2 better, places are a tenth."""

    def probes(accuracy: float) -> dict[str, Any]:
        each = dict.fromkeys(("linear", "knn_10pct", "knn"), accuracy)
        better = dict.fromkeys(each, accuracy + 0.2)
        places = dict.fromkeys(each, accuracy / 10)
        return {"cifar": each, "gauges": {}, "mnist": better, "places": places, "first day's places": places}

    def day(number: int) -> dict[str, Any]:
        both = {name: probes(level + 0.1 * number) for name in ("student", "teacher")}
        waits = {"mean": 2.0, "median": 1.0, "most": 5.0 + number}
        return {"day": number, "steps": 7 * number, "cpu_s": 1.0, "waits_h": waits, "probes": both}

    turned = [dict.fromkeys(("linear", "knn_10pct", "knn"), value) for value in (0.5, 0.4, 0.5, 0.4, 0.45)]
    both = {"student": {"cifar": turned, "mnist": turned}}
    return {"regime": regime, "seed": seed, "days": [day(1), day(2)], "turned": both}


LINES = [
    line(name, seed, level + 0.01 * seed)
    for seed in (1, 2)
    for name, level in (
        ("random", 0.1),
        ("nightly", 0.2),
        ("continuous", 0.25),
        ("continuous, half", 0.22),
        ("iid", 0.3),
    )
]


def test_the_tables_compare_regimes_seed_by_seed(tmp_path: Path) -> None:
    found = Regimes([*LINES, line("nightly", 3, 0.9)])  # a seed that not every regime has is left out
    assert found.runs.seeds == (1, 2)
    assert found.names == ["cifar", "mnist"]
    assert found.accuracy("nightly", "mean of control sets", "linear") == pytest.approx(np.array([[41, 51], [42, 52]]))
    text = tables(LINES)
    assert "continuous minus nightly by day: +5.0 ± 0.0, +5.0 ± 0.0" in text
    assert "Linear +15.0 of +20.0 (0.75)" in text
    assert "mean of control sets: Linear +2.0 ± 0.0" in text  # half the compute, last day
    assert "| nightly | 2.00 | 7.00 |" in text
    assert f"{np.std([0.5, 0.4, 0.5, 0.4, 0.45]):.3f}" in text
    plot(LINES, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_table_with_a_regime_alone_says_what_it_can() -> None:
    text = tables([one for one in LINES if one["regime"] == "continuous"])
    assert "Linear, continuous, by day" in text
    assert "Comparisons" not in text


def test_the_bench_runs_each_regime_once_and_gives_a_line_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(
        bench.SCALES["smoke"],
        route=replace(ROAD, days=2),
        night=NIGHT,
        settings={"pacing.batch_size": BATCH},
        max_train=80,
        max_test=40,
    )
    monkeypatch.setitem(bench.SCALES, "smoke", small)
    words = ["--folder", str(tmp_path), "--json", "--report", str(tmp_path / "docs/regimes"), "--regimes"]
    assert main(["regimes", *words, "random", "continuous"]) == 0
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [(one["regime"], one["day"]) for one in lines] == [(n, d) for n in ("random", "continuous") for d in (1, 2)]
    assert lines[-1]["samples"] > 0
    assert set(lines[-1]["probes"]["student"]) == {"digits", "gauges", "places", "first day's places"}
    file = tmp_path / "smoke.jsonl"
    before = file.read_text()
    assert main(["regimes", *words, "random", "continuous"]) == 0
    assert file.read_text() == before
    assert "Turned images" in (tmp_path / "docs/regimes.md").read_text()
    assert (tmp_path / "docs/regimes.png").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--regimes", "hourly"], "hourly"),
        (["--seeds", "-1"], "--seeds"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["regimes", *words]) == 2
    assert named in capsys.readouterr().err


def test_a_day_counts_losses_gauges_and_rollbacks_of_its_steps() -> None:
    day = TrainedDay(Learner(config(), CPU))
    day.add(StepReport(1, 8, 8, 2.0, 1.0, 1e-3, gauges={"kl": 0.5}, rolled_back="collapsed"))
    assert (day.gauges["loss"], day.gauges["kl"], day.rollbacks) == ([2.0], [0.5], 1)
