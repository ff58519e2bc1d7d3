"""The exported backbone: timm loads it, and it sees what ours sees."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tiny_learner import TINY

from learner.networks.encoder import Encoder
from learner.weights.export import export_encoder


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(TINY.encoder).eval()


def features(model: Any, card: dict[str, Any], rgb: torch.Tensor) -> torch.Tensor:
    """As the card says: minus mean, over std."""
    mean, std = (torch.tensor(card[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        result: torch.Tensor = model.eval()((rgb - mean) / std)
    return result


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_timm_loads_it_by_the_line_on_its_card_and_gives_identical_features(
    encoder: Encoder, tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "export" / "student.safetensors"
    returned = export_encoder(encoder, path, figures={"steps": 3}, settings={})
    card = json.loads(path.with_suffix(".json").read_text())
    assert card == returned
    assert card["figures"] == {"steps": 3}
    monkeypatch.chdir(path.parent)
    model = eval(card["load"], {"timm": timm})
    rgb = torch.rand(5, 3, *size)
    with torch.inference_mode():
        assert torch.equal(features(model, card, rgb), encoder(rgb))


def test_it_loads_by_its_arguments_too_and_holds_every_weight(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    export_encoder(encoder, path, figures={}, settings={})
    card = json.loads(path.with_suffix(".json").read_text())
    model = timm.create_model(card["backbone"], checkpoint_path=str(path), **card["arguments"])
    ours = encoder.backbone.state_dict()
    assert model.state_dict().keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in model.state_dict().items())


def test_a_second_export_replaces_the_first_and_leaves_no_draft(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    export_encoder(encoder, path, figures={}, settings={})
    first = path.read_bytes()
    with torch.no_grad():
        next(encoder.backbone.parameters()).add_(1.0)
    export_encoder(encoder, path, figures={}, settings={})
    assert path.read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.json", "student.md", "student.safetensors"]


def test_the_card_names_the_weights_beside_it_and_any_reader_of_json_takes_it(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    settings = {"memory": {"half_life": math.inf}, "seed": 5}
    export_encoder(encoder, path, figures={"loss_last": math.nan}, settings=settings)
    card = json.loads(path.with_suffix(".json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["bytes"] == path.stat().st_size
    assert card["settings"] == {"memory": {"half_life": "inf"}, "seed": 5}


def test_the_readable_card_says_what_the_weights_saw_how_good_they_are_and_how_to_load_them(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "student.safetensors"
    before = {"knn_student": 0.25, "linear_student": 0.5, "knn_teacher": 0.75}
    figures = {
        "steps": 1200,
        "pairs_received": 300,
        "loss_last": 22.911672592163086,
        "probe": {"digits": {"before": before, "after": {"knn_student": 0.375}}},
        "probed_steps": [0, 1100],
        "stream": {"devices": ["left|rig"], "captured_from": "2026-11-22T08:00:00Z"},
    }
    export_encoder(encoder, path, figures=figures, settings={"objective": {"crops": 4}})
    text = path.with_suffix(".md").read_text()
    for line in (
        "| training steps | 1200 |",
        "| last loss | 22.91 |",
        "| devices (of the pairs in memory) | left\\|rig |",
        "| probe | start | last (step 1100) |",
        "| digits, k-NN | 25.0 % | 37.5 % |",
        "| digits, linear | 50.0 % |  |",
        "| objective.crops | 4 |",
    ):
        assert line in text.splitlines()
    assert "75.0" not in text, "what the teacher can is on the teacher's card"
    assert "in doubt" not in text.lower()
    monkeypatch.chdir(tmp_path)
    rgb = torch.rand(2, 3, 16, 16)
    known = {"rgb": rgb}
    with torch.inference_mode():
        exec(text.partition("```python\n")[2].partition("```")[0], known)
        torch.testing.assert_close(known["features"], encoder(rgb), rtol=0, atol=1e-5)
