"""The league of objectives: the best first, intervals where there are seeds, and runs that are done once."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from benchmarks.__main__ import main
from benchmarks.league.figures import plot, tables
from benchmarks.shared import probing
from benchmarks.shared.pairs import WalkOnce
from device.sim.camera import SimConfig
from learner.config import preset
from learner.networks.encoder import Encoder
from learner.objectives.contract import Batch, Objective, Outcome
from learner.objectives.pretext.rotation import Rotation, RotationConfig


def line(objective: str, seed: int, after: float, start: float = 0.25) -> dict[str, Any]:
    told = {"cpu_min": 4.0, "steps": 100, "samples_per_s": 50.0, "step_mb": 8.0}
    before, now = ({"digits k-NN": value, "digits linear": 0.5} for value in (start, after))
    return {"objective": objective, "seed": seed, "before": before, "after": now, **told}


LINES = [line("mae", 0, 0.25), line("byol", 0, 0.75), line("mae", 1, 0.5), line("byol", 1, 0.75)]


def test_the_objective_that_gained_most_is_first_with_its_interval() -> None:
    start, best, other = tables(LINES).splitlines()[4:7]
    assert start.startswith("| random start | 25.0 / 50.0 |")
    assert best == "| `byol` | 75.0 / 50.0 | +50.0 ± 0.0 | +0.0 ± 0.0 | 100 | 50 | 8 |"
    assert other == "| `mae` | 37.5 / 50.0 | +12.5 ± 158.8 | +0.0 ± 0.0 | 100 | 50 | 8 |"


def test_the_random_start_is_the_mean_over_seeds_too() -> None:
    lines = [line("mae", 0, 0.25), line("mae", 1, 0.5, start=0.75)]
    assert "| random start | 50.0 / 50.0 |" in tables(lines)


def test_one_seed_has_no_interval() -> None:
    assert "| `byol` | 75.0 / 50.0 | +50.0 | +0.0 | 100 | 50 | 8 |" in tables(LINES[:2])


def test_an_objective_that_stopped_early_is_marked() -> None:
    text = tables([LINES[0], LINES[1] | {"stopped": "the networks collapsed"}])
    assert "| `byol` * |" in text
    assert "| `mae` |" in text


@dataclass(frozen=True, kw_only=True)
class BrokenConfig(RotationConfig):
    name = "broken"


class Broken(Rotation, Objective[BrokenConfig]):
    """Its loss is never finite."""

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        found = super().forward(batch, generator)
        return replace(found, losses=found.losses * float("nan"))


def test_a_training_that_cannot_go_on_is_measured_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["league", "--control", "--per-place", "1", "--results", str(tmp_path / "lines.jsonl"), "--json"]
    assert main([*words, "--objectives", "test_benchmarks_league:Broken"]) == 0
    (found,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert "finite" in found["stopped"]
    assert found["after"] == found["before"]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(LINES, tmp_path / "deep" / "plot.png")
    assert (tmp_path / "deep" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_walk_is_made_once_and_given_to_each_reader() -> None:
    walk = WalkOnce(SimConfig(size=(32, 48), seed=3))
    first, second = list(islice(walk, 2)), list(islice(walk, 3))
    assert all(one is other for one, other in zip(first, second, strict=False))
    assert [pair.header.seq for pair in second] == [0, 1, 2]


def test_equal_weights_are_measured_once_and_changed_ones_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder, twin = (Encoder(preset("cpu").encoder) for _ in range(2))
    twin.load_state_dict(encoder.state_dict())
    twin.config = replace(twin.config, weights="a file")  # they came from there
    digits = probing.control_set("digits", 32, 100, 100)
    first = probing.measured(encoder, digits)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(probing, "features_of", None)
        assert probing.measured(twin, digits) == first
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    changed = probing.measured(twin, digits)
    assert changed == probing.accuracies(digits, *probing.features_of(twin, digits)) != first


def test_runs_are_done_once_and_a_larger_league_reuses_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "league",
        "--control",
        "--per-place",
        "1",
        "--cpu-min",
        "0.001",
        "--results",
        str(tmp_path / "lines.jsonl"),
        "--json",
    ]
    assert main([*words, "--objectives", "rotation"]) == 0
    (first,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["steps"] >= 1
    assert first["samples_per_s"] > 0
    assert first["step_mb"] > 1
    assert main([*words, "--objectives", "rotation", "denoise", "--report", str(tmp_path / "report")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[0]) == first
    assert "1/1  seed 1  denoise" in said.err
    assert "| `rotation` |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "report.png").is_file()
