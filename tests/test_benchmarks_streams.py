"""What a stream does to an objective: the orders of batches, how alike their frames are, the tables, and runs done once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import main
from benchmarks.shared.pairs import rendered_pairs
from benchmarks.shared.recipes import changed
from benchmarks.streams.bench import goals
from benchmarks.streams.figures import plot, tables
from benchmarks.streams.memory import OrderedMemory
from benchmarks.streams.orders import Order, blocks, comb, likeness, shuffled, window
from learner.config import preset
from learner.loop import Learner
from learner.memory.decoding import decode_onto

ORDERS: dict[str, Order] = {"window": window, "blocks": blocks, "comb": comb, "shuffled": shuffled}


@pytest.mark.parametrize("name", ORDERS)
@given(batch=st.integers(1, 12), more=st.integers(0, 60), steps=st.integers(1, 20), seed=st.integers(0, 9))
def test_an_order_has_a_batch_of_frames_that_exist_for_each_step(
    name: str, batch: int, more: int, steps: int, seed: int
) -> None:
    order = ORDERS[name](batch + more, steps, batch, seed)
    assert order.shape == (steps, batch)
    assert order.dtype == np.int64
    assert order.min() >= 0
    assert order.max() < batch + more
    assert (order == ORDERS[name](batch + more, steps, batch, seed)).all()


def test_a_memory_with_an_order_gives_each_pair_however_many_have_arrived() -> None:
    pairs = rendered_pairs(40, (32, 48))
    config = changed(preset("cpu"), {"pacing.batch_size": 4, "memory.fresh_capacity": 4, "memory.canvas": (32, 48)})
    memory = OrderedMemory(config, pairs, shuffled(40, 10, 4, 0))
    learner = Learner(config, torch.device("cpu"), memory=memory)
    for step in range(10):
        for pair in pairs[4 * step : 4 * step + 4]:
            learner.add(pair)
        draw = memory.draw(4)
        images = memory.batch(draw, torch.device("cpu")).left.numpy()
        for key, image in zip(draw.keys, images, strict=True):
            assert (image == decode_onto((32, 48), pairs[key]).left).all()
    assert memory.arrived == 40


def test_a_window_goes_from_the_first_frames_to_the_last_ones_in_order() -> None:
    assert window(10, 3, 4, 0).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_blocks_are_the_windows_in_another_order() -> None:
    found = blocks(100, 20, 4, 3)
    assert found.tolist() != window(100, 20, 4, 3).tolist()
    assert sorted(found.tolist()) == window(100, 20, 4, 3).tolist()


def test_a_comb_spreads_its_teeth_over_all_frames_and_ends_where_the_next_tooth_began() -> None:
    assert comb(12, 4, 3, 0).tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


def test_shuffled_frames_come_once_before_any_comes_again() -> None:
    dealt = shuffled(12, 8, 3, 5).ravel()
    assert sorted(dealt[:12].tolist()) == sorted(dealt[12:].tolist()) == list(range(12))


def test_likeness_is_the_mean_cosine_within_a_batch_and_to_the_next_one() -> None:
    looks = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    within, between, nearest = likeness(looks, np.array([[0, 2], [1, 3]]))
    assert within == pytest.approx((1 + 0) / 2)
    assert between == pytest.approx((0 - 1 + 0 - 1) / 4)
    assert nearest == pytest.approx((0 + 0) / 2)
    assert np.isnan(likeness(looks, np.array([[0, 2]]))[1:]).all()


def test_each_order_is_alike_where_its_name_says_so() -> None:
    """A walk around a circle: neighbours look alike, and the mean of all is nothing."""
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    looks = np.stack([np.cos(turn), np.sin(turn)], 1)
    # The comb's teeth lie evenly on the circle, so that two looks of different batches have a mean cosine of 0 too: only the
    # nearest one shows that each tooth finds itself again.
    found = {name: likeness(looks, order(400, 40, 20, 1)) for name, order in ORDERS.items()}
    assert found["window"].within == found["blocks"].within > 0.95
    assert found["window"].between > 0.9
    assert abs(found["blocks"].between) < 0.3
    assert abs(found["shuffled"].within) < 0.1
    assert abs(found["comb"].within) < 0.1
    assert min(found[name].nearest for name in ("window", "comb")) > 0.995
    assert found["shuffled"].nearest < 0.99
    assert found["blocks"].nearest < 0.5


def line(stream: str, seed: int, after: float) -> dict[str, Any]:
    told = {"objective": "mae", "within": 0.5, "between": 0.25, "nearest": 0.75, "cpu_s": 2.0}
    before, now = ({"digits knn": value, "digits linear": 0.5} for value in (0.25, after))
    return {"stream": stream, "seed": seed, "before": before, "after": now, **told}


LINES = [line("reservoir", 0, 0.75), line("shuffled", 0, 0.75), line("reservoir", 1, 0.5), line("shuffled", 1, 0.75)]


def test_the_share_of_the_shuffled_gain_is_the_mean_of_the_seeds_and_is_a_goal() -> None:
    """100 and 50 %: a mean of 75, and 12.7 standard errors of 25 make half an interval."""
    text = tables(LINES, "shuffled")
    assert "| reservoir | 0.50 | 0.25 | 0.75 | +37.5 ± 158.8 | +0.0 ± 0.0 | -12.5 ± 158.8 | 75 ± 318 % | 2 |" in text
    assert "| shuffled | 0.50 | 0.25 | 0.75 | +50.0 ± 0.0 | +0.0 ± 0.0 |  |  | 2 |" in text
    (goal,) = goals(LINES)
    assert goal.reached == pytest.approx(0.75)
    assert not goal.met


def test_one_seed_has_no_interval_and_a_gain_of_nothing_no_share() -> None:
    assert "| reservoir | 0.50 | 0.25 | 0.75 | +50.0 | +0.0 | +0.0 | 100 % | 2 |" in tables(LINES[:2], "shuffled")
    lines = [*LINES, line("reservoir", 2, 0.75), line("shuffled", 2, 0.255)]
    (goal,) = goals(lines)
    assert np.isnan(goal.reached)
    assert not goal.met
    assert "%" not in tables(lines, "shuffled").partition("Gains are")[0].replace("95 %", "")


def test_a_line_of_before_the_nearest_one_was_measured_has_no_figure_of_it() -> None:
    old = {name: value for name, value in LINES[0].items() if name != "nearest"}
    assert "| reservoir | 0.50 | 0.25 |  | +50.0 |" in tables([old], "shuffled")


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(LINES, tmp_path / "deep" / "plot.png")
    assert (tmp_path / "deep" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_every_kind_are_done_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["streams", "--seeds", "0", "--objectives", "ntxent", "--pairs", "12", "--steps", "2", "--batch-size", "4"]
    words += ["--per-place", "1", "--control-limit", "20", "--results", str(tmp_path / "lines.jsonl"), "--json"]
    assert main([*words, "--streams", "window", "reservoir"]) == 0
    first = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [found["stream"] for found in first] == ["window", "reservoir"]
    assert 0 < first[0]["nearest"] <= 1
    assert first[0]["frames"] > 12
    assert first[0]["within"] > first[1]["within"]
    main([*words, "--streams", "window", "reservoir", "shuffled", "--report", str(tmp_path / "report")])
    said = capsys.readouterr()
    assert list(map(json.loads, said.out.splitlines()))[:2] == first
    assert "1/1  seed 0  ntxent, shuffled" in said.err
    assert "| reservoir |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "report.png").is_file()


@pytest.mark.parametrize("objective", ["tct", "deepmdp"])
def test_an_objective_of_clips_or_signals_is_refused(objective: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["streams", "--objectives", objective]) == 2
    assert f"--objectives {objective}: it learns from clips or signals" in capsys.readouterr().err


def test_an_unknown_stream_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["streams", "--streams", "river"]) == 2
    assert "--streams must be some of: window; window, deduped; reservoir; shuffled" in capsys.readouterr().err
