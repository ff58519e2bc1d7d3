"""The newest pairs as a matrix and a map: neighbours stay neighbours, the same run gives the same picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from service_run import Run
from tiny_learner import TINY, make_pairs, tiny_learner

from learner.errors import LearnerError
from learner.memory.holdout import GAP, STRETCH
from learner.report.layout import MIN_PAIRS, cosine_distances, layout_of, tsne
from learner.report.report import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    path = tmp_path_factory.mktemp("runs") / "walk"
    Run(path, make_pairs(20), []).run()
    return path


def test_distances_are_those_of_the_angle_alone() -> None:
    features = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    expected: list[list[float]] = [
        [0, 1, 2, 0.4, 1],
        [1, 0, 1, 0.2, 1],
        [2, 1, 0, 1.6, 1],
        [0.4, 0.2, 1.6, 0, 1],
        [1, 1, 1, 1, 0],
    ]
    np.testing.assert_allclose(cosine_distances(features), expected, atol=1e-12)


def test_the_map_keeps_what_is_alike_together_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(3, 16))
    features = np.repeat(scenes, 20, axis=0) + 0.05 * rng.normal(size=(60, 16))
    distances = cosine_distances(features)
    places = tsne(distances)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(60)
    nearest = np.argmin(apart, axis=1)
    assert (nearest // 20 == np.arange(60) // 20).all()
    assert np.array_equal(places, tsne(distances))


def test_the_layout_is_that_of_the_newest_pairs_by_the_exported_weights(run: Path) -> None:
    layout = layout_of(run)
    assert layout.captured_ns == list(range(20))
    assert layout.distances.shape == (20, 20)
    assert layout.positions.shape == (20, 2)
    assert np.isfinite(layout.positions).all()
    assert layout.distances.max() > 0
    assert np.array_equal(layout.positions, layout_of(run).positions)
    html = write_report(run).read_text()
    assert "20 pairs, captured from 1970-01-01 00:00:00 to" in html
    assert "Not drawn" not in html
    assert "No pairs were held out" in html


def test_the_pairs_that_are_held_out_have_a_layout_of_their_own(tmp_path: Path) -> None:
    Run(tmp_path, make_pairs(4 * STRETCH), [], learner=tiny_learner(replace(TINY, holdout=0.5))).run()
    layout = layout_of(tmp_path, held_out=True)
    assert len(layout.captured_ns) == 2 * (STRETCH - 2 * GAP)
    blocks = {ns // STRETCH for ns in layout.captured_ns}
    assert len(blocks) == 2
    assert all(GAP <= ns % STRETCH < STRETCH - GAP for ns in layout.captured_ns)
    html = write_report(tmp_path).read_text()
    assert f"{len(layout.captured_ns)} pairs, captured from" in html
    assert "triplets that are right by the margin" in html
    assert "Not drawn" not in html


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("export/student.safetensors", "student.safetensors cannot be read as weights"),
        ("pairs.sqlite", "pairs.sqlite"),
        ("config.json", "cannot be read as a run's settings"),
    ],
)
def test_what_is_missing_is_said_in_place_of_the_pictures(run: Path, spoil: str, says: str) -> None:
    whole = (run / spoil).read_bytes()
    (run / spoil).write_bytes(whole[: len(whole) // 3])
    try:
        with pytest.raises(LearnerError, match=says):
            layout_of(run)
        assert "Not drawn: " in write_report(run).read_text()
    finally:
        (run / spoil).write_bytes(whole)


def test_weights_that_are_not_finite_are_said_too(run: Path) -> None:
    path = run / "export" / "student.safetensors"
    whole = path.read_bytes()
    save_file({name: torch.full_like(weight, torch.nan) for name, weight in load_file(path).items()}, path)
    with pytest.raises(LearnerError, match="features that are not finite"):
        layout_of(run)
    path.write_bytes(whole)


def test_too_few_pairs_make_no_map(tmp_path: Path) -> None:
    Run(tmp_path, make_pairs(MIN_PAIRS - 1), [], learner=tiny_learner(replace(TINY))).run()
    with pytest.raises(LearnerError, match=f"has {MIN_PAIRS - 1} pairs, a map needs {MIN_PAIRS}"):
        layout_of(tmp_path)
