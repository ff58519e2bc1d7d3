"""The exported backbone: timm loads it, and it sees what ours sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tiny_learner import TINY

from learner.encoder import Encoder
from learner.export import export_encoder


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
    line = export_encoder(encoder, path, figures={"steps": 3})
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["load"] == line
    assert card["figures"] == {"steps": 3}
    monkeypatch.chdir(path.parent)
    model = eval(line, {"timm": timm})
    rgb = torch.rand(5, 3, *size)
    with torch.inference_mode():
        assert torch.equal(features(model, card, rgb), encoder(rgb))


def test_it_loads_by_its_arguments_too_and_holds_every_weight(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    export_encoder(encoder, path, figures={})
    card = json.loads(path.with_suffix(".json").read_text())
    model = timm.create_model(card["backbone"], checkpoint_path=str(path), **card["arguments"])
    ours = encoder.backbone.state_dict()
    assert model.state_dict().keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in model.state_dict().items())


def test_a_second_export_replaces_the_first_and_leaves_no_draft(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    export_encoder(encoder, path, figures={})
    first = path.read_bytes()
    with torch.no_grad():
        next(encoder.backbone.parameters()).add_(1.0)
    export_encoder(encoder, path, figures={})
    assert path.read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.json", "student.safetensors"]
