"""The stream's probe: what it counts, against a slower statement; what it joins as one place; what a run tells of it."""

from __future__ import annotations

import dataclasses
import json
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import recorded
from tiny_learner import CANVAS, FLAGS, TINY, make_pairs, tiny_learner

from device.camera import EyeImage
from device.sim.camera import SimCamera, SimConfig
from learner.__main__ import main
from learner.cli.settings import HOLDOUT
from learner.memory.canvas import centre_square, on_canvas
from learner.memory.holdout import STRETCH, is_in_gap
from learner.metrics import LearnerMetrics
from learner.page.curves import Curves
from learner.probes import visits as visits_of_pictures
from learner.probes.stream_probe import FAR, LAG, MIN_QUERIES, NEAR, Recall, Triplets, Where, recalls, triplets
from learner.probes.visits import Visits, local_features, show_same
from learner.runs.folder import RunDirectory
from learner.runs.start import START_WEIGHTS
from learner.runs.titles import stream_words
from learner.service.stream_probe import StreamProbe
from learner.weights.export import write_weights
from stream.image import Image

pytestmark = pytest.mark.usefixtures("one_thread")


def where(stretches: int, pairs: int) -> Where:
    """Stretches of so many pairs each."""
    number, seq = np.divmod(np.arange(stretches * pairs, dtype=np.int64), pairs)
    return Where(number, number * STRETCH + seq)


def nowhere(its: Where) -> Any:
    return np.zeros((len(its.seq), len(its.seq)), np.bool_)


# Recall


@settings(max_examples=25)
@given(st.integers(2, 5), st.integers(LAG + 1, 12), st.integers(0, 2**16))
def test_recall_is_how_often_the_most_similar_picture_is_a_right_one(stretches: int, pairs: int, seed: int) -> None:
    random, its = np.random.default_rng(seed), where(stretches, pairs)
    count = stretches * pairs
    left, right = (torch.from_numpy(random.normal(size=(count, 4))) for _ in range(2))
    same = random.random((count, count)) < 0.2
    same |= same.T
    found = recalls(left, right, its, same)

    def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
        return float(one @ other / (one.norm() * other.norm()))

    def nearest(query: int, of: torch.Tensor, asked: list[int]) -> int:
        return max(asked, key=lambda other: cosine(left[query], of[other]))

    everyone = range(count)
    hits: dict[str, list[bool]] = {"right": [], "neighbour": [], "visit": []}
    for query in everyone:
        hits["right"].append(nearest(query, right, list(everyone)) == query)
        elsewhere = [other for other in everyone if its.stretch[other] != its.stretch[query]]
        later = [other for other in everyone if its.seq[other] == its.seq[query] + LAG and other not in elsewhere]
        if later:
            hits["neighbour"].append(nearest(query, left, elsewhere + later) == later[0])
        rights = [other for other in elsewhere if same[query, other]]
        if rights and len(rights) < len(elsewhere):
            hits["visit"].append(nearest(query, left, elsewhere) in rights)
    for kind, answers in hits.items():
        assert found[kind].queries == len(answers)
        enough = len(answers) >= MIN_QUERIES
        assert found[kind].recall == (pytest.approx(np.mean(answers)) if enough else None)


@settings(max_examples=10)
@given(st.integers(4, 6), st.integers(8, 16), st.integers(0, 2**16))
def test_triplets_are_right_where_what_is_near_in_time_is_nearer_than_what_is_far(
    stretches: int, pairs: int, seed: int
) -> None:
    its = where(stretches, pairs)
    left = np.random.default_rng(seed).normal(size=(stretches * pairs, 3)) + its.stretch[:, None]
    scaled = 10 * left / np.linalg.norm(left, axis=1, keepdims=True)
    right, by_margin = [], []
    for a in range(len(left)):
        apart, inside = np.abs(its.seq - its.seq[a]), its.stretch == its.stretch[a]
        gaps = [
            ((scaled[a] - scaled[n]) ** 2).sum() - ((scaled[a] - scaled[p]) ** 2).sum()
            for p in np.flatnonzero(inside & (apart > 0) & (apart <= NEAR))
            for n in np.flatnonzero(~inside & (apart > FAR))
        ]
        if gaps:
            right.append(np.mean([gap > 0 for gap in gaps]))
            by_margin.append(np.mean([gap > 2 for gap in gaps]))
    found = triplets(torch.from_numpy(left), its)
    assert found == pytest.approx((np.mean(right), np.mean(by_margin)), abs=1e-9)
    assert found.right is not None and found.by_margin is not None and found.right > found.by_margin  # noqa: PT018
    assert triplets(torch.from_numpy(left[:20]), Where(its.stretch[:20], its.seq[:20])) == Triplets(None, None)


def test_features_that_are_all_alike_find_nothing_and_good_ones_everything() -> None:
    its = where(4, 12)
    own = torch.nn.functional.one_hot(torch.from_numpy(its.stretch * 100 + its.seq % STRETCH)).float()
    place = torch.nn.functional.one_hot(torch.from_numpy(its.stretch // 2)).float()
    alike = torch.ones(48, 3)
    same = (its.stretch[:, None] // 2 == its.stretch // 2) & (its.stretch[:, None] != its.stretch)
    blind = recalls(alike, alike, its, same)
    assert [one.recall for one in blind.values()] == [0, 0, 0]
    assert [*recalls(own, own, its, same)["right"]] == pytest.approx([1.0, 1 / 48, 48])
    seeing = recalls(place, place, its, same)
    assert [*seeing["visit"]] == pytest.approx([1.0, 12 / 36, 48])
    assert recalls(place, place, its, same)["neighbour"].recall == 0  # as near as the pictures of another stretch
    stretch = torch.nn.functional.one_hot(torch.from_numpy(its.stretch)).float()
    assert [*recalls(stretch, stretch, its, same)["neighbour"]] == pytest.approx([1.0, 1 / 37, 32])


def test_too_few_pairs_give_no_number() -> None:
    its = where(1, MIN_QUERIES - 1)
    features = torch.eye(MIN_QUERIES - 1)
    found = recalls(features, features, its, nowhere(its))
    assert [one.recall for one in found.values()] == [None] * 3
    assert found["right"].queries == MIN_QUERIES - 1
    none = where(0, 1)
    assert recalls(torch.zeros(0, 3), torch.zeros(0, 3), none, nowhere(none))["right"] == Recall(None, None, 0)


def test_a_feature_that_is_not_finite_is_refused() -> None:
    its = where(2, 12)
    features = torch.full((24, 3), float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        recalls(features, features, its, nowhere(its))


# Another visit


def small(eye: EyeImage) -> Image:
    assert eye.pixels is not None
    return on_canvas(eye.pixels, (120, 160))


def test_what_is_joined_on_a_simulated_walk_is_the_same_room() -> None:
    camera = SimCamera(SimConfig(seed=1, places=4))
    chosen = [(index, pose) for index, pose in islice(enumerate(camera.poses()), 2400) if index % 40 == 0]
    shots = [camera.shot(index, pose) for index, pose in chosen]
    eyes = [tuple(small(eye) for eye in (shot.left, shot.right)) for shot in shots]
    places = np.array([pose.place for _, pose in chosen])
    number = np.arange(len(shots), dtype=np.int64)
    visits, looked = Visits(), list[int]()

    def look(pair: int) -> Any:
        looked.append(pair)
        return eyes[pair]

    its = Where(number, number * STRETCH)
    joined = visits.same_place(number.tolist(), its, look)
    truth = places[:, None] == places
    assert joined.sum() >= 40
    assert truth[joined].mean() >= 0.9
    assert truth[~joined].mean() < 0.5
    assert np.array_equal(joined, visits.same_place(number.tolist(), its, look))
    assert len(looked) == len(shots)  # nothing is computed twice


def test_neighbours_of_a_joined_picture_are_joined_and_the_work_of_a_call_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[object] = []

    def same(one: object, _other: object) -> bool:
        compared.append(one)
        return True

    monkeypatch.setattr(visits_of_pictures, "show_same", same)
    monkeypatch.setattr(visits_of_pictures, "COMPARED_AT_ONCE", 3)
    its, blank = where(3, 10), np.zeros((16, 16, 3), np.uint8)
    visits, keys = Visits(), list(range(30))
    first = visits.same_place(keys, its, lambda _: (blank, blank))
    assert len(compared) == 3
    for _ in range(9):
        last = visits.same_place(keys, its, lambda _: (blank, blank))
    assert first.sum() < last.sum()
    assert np.array_equal(last, its.stretch[:, None] != its.stretch)


@pytest.mark.parametrize("shape", [(16, 16), (720, 1280)])
def test_pictures_without_features_show_nothing_the_same(shape: tuple[int, int]) -> None:
    dark = local_features(np.zeros((*shape, 3), np.uint8))
    noise = local_features(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    assert not show_same((dark, dark), (dark, dark))
    assert not show_same((dark, dark), (noise, noise))


def test_the_central_square_of_the_scene_is_cut_out_of_the_squeezed_picture() -> None:
    scene = np.zeros((60, 120, 3), np.uint8)
    cv2.circle(scene, (60, 30), 20, (255, 255, 255), -1)
    for wide in (scene, np.ascontiguousarray(scene.transpose(1, 0, 2))):
        squeezed = on_canvas(wide, (60, 60))
        square: Image = centre_square(squeezed, wide.shape[1] / wide.shape[0], 30)
        rows, columns = ((square[..., 0] > 127).any(axis).sum() for axis in (0, 1))
        assert abs(int(rows) - int(columns)) <= 1
        assert abs(int(rows) - 20) <= 2


# A run


def probe_of(tmp_path: Path, pairs: int) -> StreamProbe:
    """The probe of a learner that has held out a half of so many pairs, with its start in a file."""
    learner = tiny_learner(dataclasses.replace(TINY, holdout=0.5))
    write_weights(tmp_path / START_WEIGHTS, learner.objective.encoders()["student"].backbone.state_dict())
    for pair in make_pairs(pairs):
        learner.add(pair)
    return StreamProbe(learner=learner, start=tmp_path / START_WEIGHTS)


def test_at_the_start_the_start_and_the_student_find_the_same(tmp_path: Path) -> None:
    probe = probe_of(tmp_path, 8 * STRETCH)
    before = torch.random.get_rng_state()
    line = probe.measure(probe.learner.objective.encoders()["student"])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert line["right"] is not None
    assert line["right"] == line["right_start"]
    assert line["neighbour"] == line["neighbour_start"]
    assert 0 < line["triplets_by_margin"] <= line["triplets_right"] == line["triplets_right_start"] < 1
    assert line["visit"] is line["visit_start"] is None
    assert line["right_queries"] == line["pairs"] == len(probe.learner.held_out.slots)


def test_without_the_file_of_the_start_the_figures_stand_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    probe = probe_of(tmp_path, 8 * STRETCH)
    (tmp_path / START_WEIGHTS).unlink()
    line = probe.measure(probe.learner.objective.encoders()["student"])
    assert line["right"] is not None
    assert line["right_start"] is line["triplets_right_start"] is None
    assert "no figures of the start" in caplog.text


def test_with_too_few_pairs_it_says_so(tmp_path: Path) -> None:
    probe = probe_of(tmp_path, 20)
    line = probe.measure(probe.learner.objective.encoders()["student"])
    assert line["right"] is None
    assert "not enough yet" in stream_words(line)
    empty = probe_of(tmp_path, 0)
    assert empty.measure(empty.learner.objective.encoders()["student"])["pairs"] == 0


def run_words(run: Path, walk: Path, *more: str) -> list[str]:
    small = [word for word in FLAGS if word not in ("--holdout", "0")]
    memory = ["--memory.canvas", *map(str, CANVAS), "--memory.capacity", "64", "--memory.fresh-capacity", "64"]
    return [
        *small,
        *memory,
        "--control",
        "--http-port",
        "0",
        "--replay",
        str(walk),
        "--run-dir",
        str(run),
        "--json",
        *more,
    ]


def test_a_run_without_labels_tells_what_it_finds_beside_its_start_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk, run = recorded(tmp_path / "walk.mcap", make_pairs(12 * STRETCH)), tmp_path / "run"
    assert main(run_words(run, walk, "--holdout", "0.5", "--probe-every-s", "0")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["pairs_received"] == 12 * STRETCH
    assert summary["pairs_held_out"] == 6 * STRETCH
    reservoir = summary["reservoir"]
    assert reservoir["dropped_fresh"] == summary["undecodable"] == 0
    assert summary["samples"] <= 4 * (summary["pairs_received"] - summary["pairs_held_out"])
    assert set(summary["stream_probe"]) == {"student", "teacher"}
    line = summary["stream_probe"]["student"]
    assert line["step"] == summary["steps"]
    assert None not in (line["right"], line["right_start"], line["neighbour"], line["neighbour_start"])
    assert (run / START_WEIGHTS).is_file()
    lines = [json.loads(text) for text in (run / "holdout.jsonl").read_text().splitlines()]
    assert lines[-2:] == [summary["stream_probe"]["student"], summary["stream_probe"]["teacher"]]
    report = (run / "report.html").read_text()
    assert "the right image found, %" in report
    page = Curves(run, {}).stream()
    assert "student finds the right image" in page
    assert "the neighbour in time found" in page

    before = (run / "holdout.jsonl").read_text()
    assert main(["--run-dir", str(run), "--replay", str(walk), "--http-port", "0", "--control", "--json"]) == 0
    assert (run / "holdout.jsonl").read_text() == before or len(before) < (run / "holdout.jsonl").stat().st_size
    assert json.loads(capsys.readouterr().out)["pairs_held_out"] == 6 * STRETCH


def test_the_last_probe_is_of_all_pairs_that_are_held_out_also_of_those_after_the_last_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, run = make_pairs(12 * STRETCH), tmp_path / "run"
    rule = tiny_learner(dataclasses.replace(TINY, holdout=0.5)).held_out.rule
    held = [rule.holds(pair.header) for pair in pairs]
    end = max(number for number in range(STRETCH, len(pairs) + 1, STRETCH) if held[number - 1])
    walk = recorded(tmp_path / "walk.mcap", pairs[:end])
    assert main(run_words(run, walk, "--holdout", "0.5", "--probe-every-steps", "1")) == 0
    summary = json.loads(capsys.readouterr().out)
    kept = sum(holds and not is_in_gap(pair.header) for pair, holds in zip(pairs[:end], held, strict=False))
    assert summary["stream_probe"]["student"]["pairs"] == kept


def test_a_new_run_of_the_command_holds_some_out_and_an_old_one_goes_on_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk, run = recorded(tmp_path / "walk.mcap", make_pairs(2)), tmp_path / "run"
    assert main(run_words(run, walk, "--max-steps", "0")) == 0
    config = json.loads((run / "config.json").read_text())
    assert config["holdout"] == HOLDOUT > 0
    del config["holdout"]  # as an earlier version wrote it
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps(config))
    assert (
        main(["--run-dir", str(old), "--replay", str(walk), "--http-port", "0", "--control", "--max-steps", "0"]) == 0
    )
    assert not (old / START_WEIGHTS).exists()
    assert json.loads((old / "summary.json").read_text())["pairs_held_out"] == 0


def test_the_metrics_are_those_of_the_encoders_and_of_the_start() -> None:
    metrics = LearnerMetrics()
    metrics.probed_stream("student", {"right": 0.5, "visit": None})
    metrics.probed_stream("start", {"right": 0.25, "visit": None})
    (found,) = metrics.stream_recall.collect()
    assert {(sample.labels["encoder"], sample.labels["query"], sample.value) for sample in found.samples} == {
        ("student", "right", 0.5),
        ("start", "right", 0.25),
    }


def test_lines_after_the_last_commit_are_forgotten(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, TINY)
    for step in (1, 5):
        directory.append("holdout", {"step": step, "encoder": "student"})
    directory.rewind(3)
    assert [line["step"] for line in directory.lines("holdout")] == [1]
