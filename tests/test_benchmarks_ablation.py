"""The ablation bench: a row changes what it says and nothing else, differences are paired, gauges are ranked."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.ablation.bench import sent_pairs
from benchmarks.ablation.figures import control_names, correlations, tables
from benchmarks.ablation.rows import PRESET, RECIPE, ROWS, STREAM
from benchmarks.shared.paired import by_seed
from benchmarks.shared.recipes import PRESETS, changed, with_original_numbers
from device.capture import capture
from device.dedupe import Dedupe, DedupeConfig
from device.sim.camera import SimCamera, SimConfig
from learner.config import LearnerConfig, differences, to_plain
from learner.loop import Learner
from learner.objectives.babyagent import BabyAgentConfig
from learner.objectives.contract import Batch
from learner.views.guided import GuidedMaker
from stream.codec import decode
from stream.pair import EncodedPair


@pytest.fixture(scope="module")
def pairs() -> list[EncodedPair]:
    world = SimConfig(size=(48, 64), seed=5)
    rig = capture(SimCamera(world), Dedupe(DedupeConfig(), seed=5), device="sim", epoch="5" * 32)
    return [next(rig) for _ in range(12)]


@pytest.mark.parametrize("name", RECIPE)
def test_each_row_of_the_recipe_differs_from_the_preset_and_can_be_built(name: str) -> None:
    config = RECIPE[name].settings(PRESETS["babyagent"])
    assert differences(config, PRESETS["babyagent"])
    config.objective.build(config.encoder)
    assert RECIPE[name].dedupe


def test_every_row_of_a_seed_begins_with_the_same_backbone() -> None:
    starts = []
    for row in ROWS.values():
        config = row.settings(replace(PRESETS["babyagent"], seed=9))
        student = Learner(config, torch.device("cpu")).objective.encoders()["student"]
        starts.append(torch.cat([weight.flatten() for weight in student.parameters()]))
    assert all(torch.equal(start, starts[0]) for start in starts)


def test_a_setting_is_changed_by_its_dotted_name_and_nothing_else_is() -> None:
    preset = PRESETS["babyagent"]
    config = changed(preset, {"objective.crops": 3, "schedule.learning_rate": 0.5, "seed": 7})
    names = {text.split(":")[0] for text in differences(config, preset)}
    assert names == {"objective.crops", "schedule.learning_rate", "seed"}
    with pytest.raises(TypeError):
        changed(preset, {"objective.no_such_setting": 1})


def test_the_original_numbers_are_those_of_the_original_experiment() -> None:
    config = with_original_numbers(PRESETS["babyagent"])
    objective = config.objective
    assert isinstance(objective, BabyAgentConfig)
    assert (objective.student_temperature, objective.repulsion, objective.centring) == (0.05, 0.1, "ema")
    assert config.schedule.learning_rate == 5e-4
    assert config.encoder == PRESETS["babyagent"].encoder


def test_without_the_right_eye_both_images_are_the_left_one(pairs: list[EncodedPair]) -> None:
    sent = STREAM["left eye only"].sent(pairs, 0)
    for pair, before in zip(sent, pairs, strict=True):
        decoded = decode(pair)  # its checksum holds
        assert np.array_equal(decoded.left, decoded.right)
        assert pair.left == before.left
        assert pair.header.name == before.header.name


def test_shuffled_time_is_the_same_pairs_in_another_order(pairs: list[EncodedPair]) -> None:
    sent = STREAM["shuffled time"].sent(pairs, 1)
    assert Counter(pair.left for pair in sent) == Counter(pair.left for pair in pairs)
    assert [pair.left for pair in sent] != [pair.left for pair in pairs]
    assert [pair.header.seq for pair in sent] == list(range(len(pairs)))
    for pair in sent:
        decode(pair)
    assert [pair.left for pair in STREAM["shuffled time"].sent(pairs, 1)] == [pair.left for pair in sent]
    assert STREAM["without dedupe"].sent(pairs, 1) is pairs


def test_without_dedupe_the_rig_sends_every_frame_of_as_long_a_walk() -> None:
    kept = sent_pairs(4, None, 6, True)
    every = sent_pairs(4, None, 6, False)
    assert every[-1].header.left_ns == kept[-1].header.left_ns
    assert [pair.header.suppressed for pair in every] == [0] * len(every)
    assert len(every) == len(kept) + sum(pair.header.suppressed for pair in kept)
    assert {pair.left for pair in kept} <= {pair.left for pair in every}


def test_crops_anywhere_are_as_large_but_do_not_follow_the_attention() -> None:
    preset = changed(PRESETS["babyagent"], {"encoder.embed_dim": 16, "encoder.depth": 1, "encoder.heads": 2})
    stray = STREAM["crops anywhere"].settings(preset).objective.build(preset.encoder)
    makers = [one.views for one in (preset.objective.build(preset.encoder), stray)]
    maps = torch.zeros(400, 2, 6, 6)
    maps[:, :, 1, 4] = 1.0
    guided, anywhere = (
        maker.gaze(maps, torch.Generator().manual_seed(0)) for maker in makers if isinstance(maker, GuidedMaker)
    )
    assert torch.equal(guided[2], anywhere[2])
    assert guided[1].std(0).max() < 1e-6
    assert torch.allclose(anywhere[1].mean(0), torch.tensor([0.5, 0.5]), atol=0.05)
    assert torch.allclose(anywhere[1].std(0), torch.full((2,), 12**-0.5), atol=0.03)
    images = torch.randint(0, 255, (4, 60, 80, 3), dtype=torch.uint8)
    outcome = stray(Batch(images, images, torch.full((4,), 4 / 3)), torch.Generator().manual_seed(1))
    assert outcome.losses.isfinite().all()


def line(row: str, seed: int, gain: float, *, entropy: float = 3.0, cpu_s: float = 10.0) -> dict[str, Any]:
    def point(step: int, accuracy: float) -> dict[str, Any]:
        each = dict.fromkeys(("knn", "linear"), accuracy)
        student = {"cifar": each, "rankme": 10.0 * accuracy, "alpha_req": -accuracy, "mnist": each, "places": each}
        gauges = {"teacher_entropy": entropy, "kl": 1.0} if step else {}
        return {"step": step, "cpu_s": cpu_s * step / 4, "gauges": gauges, "student": student}

    return {"row": row, "seed": seed, "curve": [point(0, 0.2), point(2, 0.2 + gain / 2), point(4, 0.2 + gain)]}


LINES = [
    line(row, seed, gain + 0.01 * seed + wobble, entropy=entropy, cpu_s=cpu_s)
    for row, gain, entropy, cpu_s in ((PRESET, 0.10, 3.0, 10.0), ("EMA centre", 0.06, 1.0, 15.0))
    for seed, wobble in ((1, 0.0), (2, 0.0), (3, 0.0))
]


def test_rows_are_compared_with_the_preset_seed_by_seed() -> None:
    text = tables([*LINES, line(PRESET, 4, 0.9)], {"recipe": (PRESET, "EMA centre")})
    first, second = text.splitlines()[-2:]
    assert first.startswith("| preset | +12.0 / +12.0 |")
    assert second.startswith("| EMA centre | -4.0 ± 0.0 / -4.0 ± 0.0 |")
    assert "1.50 x | 1.00" in second
    assert control_names(LINES[0]) == ["cifar", "mnist", "places"]
    assert by_seed(LINES, "row").seeds == (1, 2, 3)


def test_a_gauge_that_follows_the_probe_differs_from_one_that_does_not() -> None:
    rows = {
        cells[1].strip(): cells[3:5] for cells in (text.split("|") for text in correlations(LINES).splitlines()[6:])
    }
    assert [float(cell) for cell in rows["rankme"]] == [1.0, 1.0]
    assert [float(cell) for cell in rows["alpha_req"]] == [-1.0, -1.0]
    assert 0 < float(rows["teacher_entropy"][0]) < 1
    assert "kl" not in rows  # it never changed


def test_the_bench_runs_each_row_once_and_gives_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small: LearnerConfig = changed(
        PRESETS["babyagent"],
        {"encoder.embed_dim": 16, "encoder.depth": 1, "encoder.heads": 2, "objective.crops": 2, "pacing.batch_size": 8},
    )
    monkeypatch.setitem(
        PRESETS, "babyagent", replace(small, memory=replace(small.memory, capacity=32, fresh_capacity=16))
    )
    words = ["--rows", "left eye only", "--seeds", "0", "--pairs", "20", "--steps", "4", "--json"]
    words += ["--place-size", "16", "--per-place", "2"]
    words += ["--results", str(tmp_path / "lines.jsonl"), "--report", str(tmp_path / "docs" / "table.md")]
    assert main(["ablation", *words]) == 0
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [one["row"] for one in lines] == [PRESET, "left eye only"]
    assert [point["step"] for point in lines[0]["curve"]] == [0, 2, 4]
    assert lines[0]["curve"][-1]["gauges"]["kl"] > 0
    assert "left eye only" in (tmp_path / "docs" / "table.md").read_text()


def test_an_unknown_row_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablation", "--rows", "larger moon"]) == 2
    assert "larger moon" in capsys.readouterr().err


def test_a_row_that_took_no_measurable_time_has_no_ratio_of_times() -> None:
    short = [line(row, 1, 0.1, cpu_s=0.0) for row in (PRESET, "EMA centre")]
    rows = tables(short, {"recipe": (PRESET, "EMA centre")}).splitlines()[-2:]
    assert "| 0 s |" in rows[0]
    assert " x |" not in rows[1]


def test_every_row_has_one_name() -> None:
    assert set(ROWS) == {PRESET, *RECIPE, *STREAM}
    assert len(ROWS) == 1 + len(RECIPE) + len(STREAM)
    assert to_plain(ROWS[PRESET].settings(PRESETS["babyagent"])) == to_plain(PRESETS["babyagent"])
