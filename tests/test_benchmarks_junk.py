"""The junk bench: its areas against scikit-learn, its streams pair by pair, its bookkeeping on cases that can be counted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tiny_learner import TINY
from torch import Generator

from benchmarks.__main__ import main
from benchmarks.junk.auc import Auc, auc, over_seeds
from benchmarks.junk.run import RecordingStubbornness, Scorings, memory_row, score_held_out, train_and_score
from benchmarks.junk.streams import Scenes, held_out_batches, photographs, walk, with_junk
from benchmarks.shared.pairs import Eyes
from benchmarks.shared.spoiled import MISHAPS
from buffer.priority import PriorityScale, Stubbornness
from learner.objectives.contract import Batch, Outcome
from stream.codec import decode

SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=20)


# The area


@given(SCORES, SCORES)
def test_the_area_is_scikit_learns_ties_included(above: list[int], below: list[int]) -> None:
    truth = [1] * len(above) + [0] * len(below)
    assert auc(above, below).value == pytest.approx(roc_auc_score(truth, above + below))


@given(SCORES, SCORES)
def test_turned_round_it_is_the_rest_with_the_same_variance(above: list[int], below: list[int]) -> None:
    one, other = auc(above, below), auc(below, above)
    assert one.value + other.value == pytest.approx(1)
    assert one.variance == pytest.approx(other.variance, nan_ok=True)


def test_the_variance_is_that_of_areas_over_many_samples() -> None:
    random = np.random.default_rng(0)
    areas = [auc(random.normal(0.8, 1, 40), random.normal(0, 1, 60)) for _ in range(2000)]
    spread = np.var([area.value for area in areas])
    assert np.mean([area.variance for area in areas]) == pytest.approx(spread, rel=0.1)


def test_without_one_of_the_two_there_is_no_area_and_of_one_score_no_variance() -> None:
    assert math.isnan(auc([], [1.0]).value)
    lonely = auc([2.0], [1.0, 3.0])
    assert lonely.value == 0.5
    assert math.isnan(lonely.variance)


def test_over_seeds_the_larger_of_both_variances_counts() -> None:
    agreeing = [Auc(0.7, 0.09)] * 3
    assert over_seeds(agreeing) == pytest.approx((0.7, 2 * math.sqrt(0.09 / 3)))
    apart = [Auc(0.5, 0.0), Auc(0.7, 0.0), Auc(0.9, 0.0)]
    assert over_seeds(apart) == pytest.approx((0.7, 2 * math.sqrt(0.04 / 3)))


# Streams


def scenes(count: int) -> list[Eyes]:
    """Pictures that can be told apart."""
    random = np.random.default_rng(0)
    return [(eye, eye[:, ::-1]) for eye in random.integers(60, 190, (count, 16, 16, 3), np.uint8)]


def test_of_a_stream_a_share_is_spoiled_evenly_and_the_rest_untouched() -> None:
    real = scenes(3000)
    shown = with_junk(real, 0.2, np.random.default_rng(1))
    struck = [one.mishap for one in shown if one.mishap]
    assert len(struck) / 3000 == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / 3000))
    for mishap in MISHAPS:
        assert struck.count(mishap) / len(struck) == pytest.approx(1 / 6, abs=4 * math.sqrt(0.14 / len(struck)))
    for index, one in enumerate(shown):
        assert one.pair.header.seq == index
        seen = decode(one.pair)
        if one.mishap == "frozen":
            assert np.array_equal(seen.left, real[index - 1][0])
        else:
            assert np.array_equal(seen.left, real[index][0]) == (one.mishap is None)


def test_an_exam_has_the_share_of_every_mishap_and_freezes_a_pair_of_the_same_batch() -> None:
    asked = held_out_batches(scenes(70), size=32, share=0.4, random=np.random.default_rng(1))
    assert len(asked.batches) == 2
    assert len(asked.mishaps) == 64
    for batch, kinds in zip(asked.batches, np.split(asked.mishaps, 2), strict=True):
        assert batch.left.shape == (32, 16, 16, 3)
        assert [np.count_nonzero(kinds == mishap) for mishap in MISHAPS] == [2] * 6
        real = [image.numpy().tobytes() for image in batch.left[kinds == ""]]
        assert len(set(real)) == 20
        assert all(image.numpy().tobytes() in real for image in batch.left[kinds == "frozen"])
    assert not torch.equal(asked.batches[0].left, asked.batches[1].left)


def looks(eyes: Sequence[Eyes]) -> list[bytes]:
    return [left.tobytes() + right.tobytes() for left, right in eyes]


def test_photographs_repeat_under_a_seed() -> None:
    one, again, other = (photographs("digits", 12, 8, seed) for seed in (1, 1, 2))
    assert looks(one.streamed) == looks(again.streamed) != looks(other.streamed)
    assert looks(one.held_out) == looks(again.held_out)


@pytest.mark.parametrize("make", [lambda: photographs("digits", 12, 8, 1), lambda: walk(None, 12, 8, 1)])
def test_what_is_held_out_is_not_streamed_and_each_eye_sees_its_own(make: Callable[[], Scenes]) -> None:
    made = make()
    assert (len(made.streamed), len(made.held_out)) == (12, 8)
    assert not set(looks(made.streamed)) & set(looks(made.held_out))
    assert made.streamed[0][0].shape == (*made.size, 3)
    assert not np.array_equal(*made.streamed[0])


# The figures


class Brightness:
    """Scores a pair by its light, and its loss by its darkness."""

    def __call__(self, batch: Batch, generator: Generator) -> Outcome:
        light = batch.left.float().mean((1, 2, 3))
        return Outcome(-light, light[:, None], light)


def test_held_out_areas_are_those_of_the_priority_and_of_the_loss() -> None:
    asked = held_out_batches(scenes(64), size=32, share=0.2, random=np.random.default_rng(1))
    objective: Any = Brightness()  # all that is asked of it
    table = score_held_out(objective, asked, torch.Generator())
    assert list(table) == list(MISHAPS)
    assert table["over_exposed"]["kl"].value == table["lens_cap"]["ce"].value == 1
    assert table["over_exposed"]["ce"].value == table["lens_cap"]["kl"].value == 0


def test_recording_stubbornness_damps_as_the_plain_one_and_records_its_arguments() -> None:
    scale, random = PriorityScale(), np.random.default_rng(0)
    recording, plain = RecordingStubbornness(scale), Stubbornness()
    keys, noted = np.array([4, 9]), []
    for _ in range(6):
        losses = random.uniform(1, 9, 2)
        phi = scale.observe(losses)
        noted.append((losses - scale.mean) / scale.deviation)
        assert np.array_equal(recording.damped(keys, losses, phi), plain.damped(keys, losses, phi))
    found = recording.scorings()
    assert found.step.tolist() == [step for step in range(6) for _ in keys]
    assert found.key.tolist() == [4, 9] * 6
    assert found.nth.tolist() == [nth for nth in range(1, 7) for _ in keys]
    assert found.standardised == pytest.approx(np.concatenate(noted))
    assert found.phi == pytest.approx(np.clip(found.standardised, -2, 2))
    assert np.all(np.abs(found.damped) <= np.abs(found.phi))


def test_a_row_of_memory_counts_first_and_later_scores_weights_replays_and_what_is_kept() -> None:
    """Keys 0 and 1 are real, 2 and 3 junk; each is scored once, then 1 and 2 four times more."""
    key = np.array([0, 1, 2, 3, *[1, 2] * 4])
    nth = np.array([1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    z = np.array([-1.0, 1.0, 5.0, 0.0, 1, 1, 1, 1, 1, 2, 1, 2])
    phi = z.clip(-2, 2)
    damped = np.where(nth >= 4, phi / 2, phi)
    junk, real = np.array([False, False, True, True]), np.array([True, True, False, False])
    row = memory_row(Scorings(nth * 0, key, nth, z, phi, damped), np.array([0, 1, 2]), junk, real)
    assert row["pairs"] == 2
    assert row["first"] == 0.75
    assert row["later"] == row["damped"] == 1
    assert row["clipped"] == 0.5
    assert row["weight_unclipped"] == pytest.approx((math.exp(5) + 1) / (math.exp(-1) + math.e))
    assert row["weight_clipped"] == pytest.approx((math.exp(2) + 1) / (math.exp(-1) + math.e))
    assert row["weight_later"] == pytest.approx(math.e)
    assert row["weight_damped"] == pytest.approx(math.exp(0.5))
    assert row["taken"] == row["taken_real"] == 0.5
    assert row["replayed"] == pytest.approx(0.5 / 0.5)
    assert row["kept"] == pytest.approx((1 / 3) / 0.5)


def test_a_mishap_that_did_not_happen_has_no_figures_instead_of_wrong_ones() -> None:
    once, none = np.array([1]), np.array([False])
    row = memory_row(Scorings(once, once - 1, once, *np.ones((3, 1))), np.array([0]), none, ~none)
    assert row.pop("pairs") == 0
    assert all(math.isnan(value) for value in row.values())


# The whole


def test_one_learner_scores_at_each_moment_and_repeats_under_its_seed() -> None:
    real = scenes(400)
    asked = held_out_batches(real[300:], size=16, share=0.4, random=np.random.default_rng(1))
    config = replace(TINY, memory=replace(TINY.memory, canvas=(16, 16)))
    shown = with_junk(real[:300], 0.3, np.random.default_rng(2))
    one, again = (train_and_score(config, shown, asked, [0, 30, 60]).plain() for _ in range(2))
    assert one["held_out"] == again["held_out"]
    assert json.dumps(one["memory"]) == json.dumps(again["memory"])
    assert list(one["held_out"]) == ["0", "30", "60"]
    assert one["held_out"]["0"] != one["held_out"]["30"] != one["held_out"]["60"]
    junk = one["memory"]["any"]
    assert 0 < junk["replayed"] < 3
    assert junk["pairs"] == sum(row["pairs"] for name, row in one["memory"].items() if name != "any")


def test_the_bench_tells_both_objectives_of_each_seed(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--moments", "0", "1", "--exams", "2", "--batch-size", "16", "--seeds", "3", "--json")
    assert main(["junk", "--streams", "photographs", *flags]) == 0
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [(line["preset"], line["stream"], line["seed"]) for line in lines] == [
        ("ntxent", "photographs", 3),
        ("babyagent", "photographs", 3),
    ]
    ntxent, babyagent = (line["held_out"]["1"] for line in lines)
    assert all(row["kl"] == row["ce"] for row in ntxent.values())
    assert any(row["kl"] != row["ce"] for row in babyagent.values())
    assert "over_exposed" in said.err


@pytest.mark.parametrize(
    "flags",
    [
        ("--moments", "5", "5"),
        ("--moments", "0"),
        ("--moments", "-1", "5"),
        ("--share", "0"),
        ("--share", "nan"),
        ("--batch-size", "4"),
        ("--exams", "0"),
    ],
)
def test_settings_that_cannot_work_are_one_line_and_code_2(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["junk", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
