"""The bench of adapting: its arms, its streams, its arithmetic on curves that can be counted, and runs that are done once."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded import made, recorded
from safetensors.torch import load_file, save_file

from benchmarks.__main__ import main
from benchmarks.adapt import bench
from benchmarks.adapt.arms import ARMS, SCRATCH, config_of
from benchmarks.adapt.bench import AdaptRun, goals
from benchmarks.adapt.figures import above, plot, tables, worst
from benchmarks.adapt.run import probed
from benchmarks.adapt.start import made_start
from benchmarks.adapt.stream import pairs_of
from benchmarks.shared.probing import control_set, train_for
from device.sim.camera import SimConfig
from learner.config import preset
from learner.errors import Failed
from learner.loop import Learner
from learner.memory.holdout import Rule
from learner.networks.encoder import Encoder

SMALL = "--pacing.batch-size 4 --views.crops 2 --memory.canvas 24 32"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of one step, from other random weights than those of seed 0."""
    return made_start(7, tmp_path_factory.mktemp("start"), steps=1)


def test_a_start_is_trained_once_and_not_at_random(start: Path) -> None:
    before = start.stat().st_mtime_ns
    assert made_start(7, start.parent, steps=1) == start
    assert start.stat().st_mtime_ns == before
    random = Learner(replace(preset("cpu"), seed=7), torch.device("cpu")).objective.encoders()["student"]
    assert any((load_file(start)[name] != value).any() for name, value in random.backbone.state_dict().items())


def test_each_arm_has_the_settings_of_its_flags_and_two_have_a_second_teacher(start: Path) -> None:
    configs = {arm: config_of(arm, "ntxent", str(start), 0.1, "--pacing.batch-size 4") for arm in ARMS}
    assert [config.adapt.plan for config in configs.values()] == ["full", "last", "lora", "full", "lora", "off"]
    assert [arm for arm, config in configs.items() if config.adapt.is_anchored] == ["full+anchor", "lora+anchor"]
    assert {config.holdout for config in configs.values()} == {0.1}
    assert {config.pacing.batch_size for config in configs.values()} == {4}
    assert {arm for arm, config in configs.items() if config.encoder.weights is None} == {SCRATCH}
    sizes = {replace(config.encoder, weights=None) for config in configs.values()}
    assert len(sizes) == 1


def test_a_random_start_and_the_weights_it_is_compared_with_see_the_same_pixels(start: Path) -> None:
    """timm has another mean for the name without the tag."""
    named = "--encoder.backbone vit_small_patch16_224.dino"
    means = [Encoder(config_of(arm, "ntxent", str(start), 0.1, named).encoder).mean for arm in ("full", SCRATCH)]
    assert (means[0] == means[1]).all()


def test_a_recording_comes_again_under_the_same_numbers_so_what_is_held_out_stays_so(tmp_path: Path) -> None:
    first = recorded(tmp_path / "a.mcap", [made(seq) for seq in range(60)])
    second = recorded(tmp_path / "b.mcap", [made(seq) for seq in range(30)])
    pairs = list(itertools.islice(pairs_of((str(first), str(second)), SimConfig()), 180))
    headers = [pair.header for pair in pairs]
    assert headers[:90] == headers[90:]
    assert len({(header.epoch, header.seq) for header in headers}) == 90
    rule = Rule(0.5, seed=0)
    held = [rule.holds(header) for header in headers]
    assert held[:90] == held[90:]
    assert 0 < sum(held) < len(held)


def test_short_recordings_are_not_held_out_all_or_none(tmp_path: Path) -> None:
    walks = [recorded(tmp_path / f"{name}.mcap", [made(seq) for seq in range(24)]) for name in "abcdefgh"]
    pairs = itertools.islice(pairs_of(tuple(str(walk) for walk in walks), SimConfig()), 8 * 24)
    held_out = sum(Rule(0.5, seed=0).holds(pair.header) for pair in pairs)
    assert 0 < held_out < 8 * 24


def test_a_stream_that_ends_before_the_budget_is_said_in_one_line() -> None:
    learner = Learner(preset("cpu"), torch.device("cpu"))
    with pytest.raises(Failed, match="the stream has ended at step 0, after 0 of 60 CPU seconds"):
        list(train_for(learner, [], [60.0]))


def line(arm: str, seed: int, control: list[float], places: float, recall: float | None) -> dict[str, Any]:
    told = {"objective": "mae", "weights": "w", "stream": "sim", "cpu_min": 2.0, "rollbacks": 1, "steps": 9}
    start = {"control": {"a": {"knn": 0.5, "linear": 0.5}}, "places": {"knn": 0.25, "linear": 0.5}}
    stream = {"right": recall, "right_start": 0.5, "visit": None, "visit_start": None}
    curve = [
        {
            "step": step,
            "cpu_s": 60.0 * step,
            "control": {"a": {"knn": knn, "linear": 0.75}},
            "places": {"knn": places, "linear": 0.5},
            "stream": stream,
        }
        for step, knn in enumerate(control)
    ]
    return {"arm": arm, "seed": seed, "control": "a", "start": start, "curve": curve, **told}


LINES = [
    line("lora", 0, [0.5, 0.25, 0.75], 0.5, 0.75),
    line("lora", 1, [0.5, 0.75, 0.5], 0.25, 0.5),
    line("scratch", 0, [0.125, 0.25, 0.25], 0.25, None),
    line("scratch", 1, [0.125, 0.25, 0.25], 0.25, None),
]


def test_equal_weights_are_probed_once_whatever_arm_they_stand_in() -> None:
    digits = control_set("digits", 32, 50, 50)
    encoder = Encoder(preset("cpu").encoder)
    twin = copy.deepcopy(encoder)
    answers = [probed(one, [digits])[1]["digits", "student"] for one in (encoder, twin)]
    assert answers[0] is answers[1]


def test_gains_are_points_above_the_start_and_the_worst_one_is_of_any_probe_after_it() -> None:
    assert above(LINES[:2], "control").tolist() == [[0, -25, 25], [0, 25, 0]]
    assert worst(LINES[:2]).tolist() == [-25, 0]
    assert above(LINES[:2], "places")[:, -1].tolist() == [25, 0]
    assert above(LINES[:2], "stream")[:, -1].tolist() == [25, 0]
    assert np.isnan(above(LINES[2:], "stream")).all()


def test_the_table_has_the_start_and_each_arm_with_its_interval() -> None:
    """25 and 0 points: a mean of 12.5, and 12.7 standard errors of 12.5 make half an interval."""
    text = tables(LINES)
    assert "| the start itself | 50.0 % | 50.0 % |  | 25.0 % | 50.0 % |" in text
    half = "+12.5 ± 158.8"
    assert f"| lora | {half} | +25.0 ± 0.0 | -12.5 ± 158.8 | {half} | +0.0 ± 0.0 | {half} | 2 | 9 |" in text
    assert "| scratch | -25.0 ± 0.0 |" in text
    assert "too few pairs held out" in text


def test_the_goals_are_what_is_kept_what_is_gained_and_to_be_ahead_of_random_weights() -> None:
    reached = {goal.name: (goal.reached, goal.met) for goal in goals(LINES)}
    assert list(reached.values()) == [(-12.5, False), (12.5, True), (12.5, True), (37.5, True)]
    assert all("lora" in name for name in reached)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(LINES, tmp_path / "deep" / "plot.png")
    assert (tmp_path / "deep" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_done_once_and_a_larger_grid_reuses_them(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adapt", "--seeds", "0", "--objectives", "ntxent", "--weights", str(start), "--cpu-min", "0.002"]
    words += ["--probes", "2", "--per-place", "1", "--control-limit", "100", f"--learner={SMALL}", "--json"]
    words += ["--results", str(tmp_path / "lines.jsonl")]
    main([*words, "--arms", "lora+anchor"])
    (first,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["arm"] == "lora+anchor"
    assert first["curve"][0]["control"] == first["start"]["control"]
    assert len(first["curve"]) == 3
    assert first["curve"][-1]["step"] == first["steps"] > 0
    assert {"right", "right_start", "pairs"} <= first["curve"][-1]["stream"].keys()
    main([*words, "--arms", "lora+anchor", "scratch", "--report", str(tmp_path / "report")])
    said = capsys.readouterr()
    again, scratch = map(json.loads, said.out.splitlines())
    assert again == first
    assert scratch["start"] == first["start"]
    assert scratch["curve"][0]["control"] != first["start"]["control"]
    assert "1/1  seed 0  ntxent, scratch" in said.err
    assert "| lora+anchor |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "report.png").is_file()


def test_a_recording_is_streamed_without_places(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk = recorded(tmp_path / "walk.mcap", [made(seq) for seq in range(48)])
    words = ["adapt", "--seeds", "0", "--objectives", "ntxent", "--weights", str(start), "--cpu-min", "0.01"]
    words += [
        "--probes",
        "1",
        "--control-limit",
        "100",
        f"--learner={SMALL} --pacing.replay-ratio 1",
        "--json",
        "--arms",
        "last",
    ]
    main([*words, "--stream", str(walk), "--holdout", "0.5", "--results", str(tmp_path / "lines.jsonl")])
    (found,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert found["stream"] == str(walk)
    assert "places" not in found["curve"][-1]
    assert found["pairs_held_out"] > 0


def test_weights_that_were_replaced_are_other_ones_and_none_are_mixed(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[list[AdaptRun]] = []

    def completed(keys: list[AdaptRun], _path: Path, run: Callable[[AdaptRun], object], **_others: object) -> None:
        done.append(keys)
        weights.write_bytes(other.read_bytes())
        with pytest.raises(Failed, match="has changed while the bench runs: give it a copy, and start it again"):
            run(keys[0])

    weights, other = (tmp_path / name for name in ("weights.safetensors", "other.safetensors"))
    for suffix in (".safetensors", ".json"):
        weights.with_suffix(suffix).write_bytes(start.with_suffix(suffix).read_bytes())
    save_file({name: value + 1 for name, value in load_file(start).items()}, other, {"format": "pt"})
    monkeypatch.setattr(bench, "completed", completed)
    told: dict[str, Any] = {"weights": str(weights), "results": tmp_path / "lines.jsonl"}
    settings = bench.AdaptSettings(arms=("full",), objectives=("ntxent",), seeds=(0,), **told)
    bench.measure(settings)
    other.write_bytes(start.read_bytes())
    bench.measure(settings)
    assert done[0] != done[1]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--arms", "half"], "--arms must be some of: full; last; lora; full+anchor; lora+anchor; scratch"),
        (["--objectives", "nonsense"], "--objective must be one of"),
        (["--stream", "v4l2:0,2"], "--stream v4l2:0,2: name sim alone, or recordings, films and folders of images"),
        (["--stream", "sim", "walk.mcap"], "--stream sim: name sim alone"),
        (["--stream", "/nowhere.mcap"], "no camera '/nowhere.mcap'"),
        (["--weights", "/nowhere"], "/nowhere"),
        (["--control"], "--control: name at least one set"),
        (["--control", "/nowhere"], "control set /nowhere: is no folder"),
        (["--learner='"], "--learner ': No closing quotation: write the flags as in a shell"),
        (["--stream", "dir:/nowhere,/there"], "no folder /nowhere"),
    ],
)
def test_what_cannot_be_adapted_is_one_line_before_the_first_run(
    words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", "--results", str(tmp_path / "a.jsonl"), *words]) == 2
    assert what in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
