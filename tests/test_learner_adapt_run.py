"""`--adapt` as a person asks for it: weights of others are adapted in a real run, exported whole, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from learner_command import SMALL, learn, refusal
from published_weights import official
from recorded import recorded
from safetensors.torch import load_file
from tiny_learner import committed, make_pairs

from learner.__main__ import main
from learner.adapt.config import AdaptConfig, planned
from learner.cli.settings import TrainSettings, begin
from learner.cli.train import COMMAND
from learner.runs.settings import settings_of

ADAPT = ("--adapt", "lora", "--adapt.rank", "4", "--adapt.heads-alone-steps", "2", "--adapt.anchor-pairs", "4")

pytestmark = pytest.mark.usefixtures("own_signals", "one_thread")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(recorded(tmp_path_factory.mktemp("walk") / "walk.mcap", make_pairs(32)))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(official("dino", patch=8), tmp_path / "dino.pth")
    return tmp_path / "dino.pth"


def settings(*words: str) -> TrainSettings:
    made: TrainSettings = COMMAND.parse(words)
    return made


def test_weights_are_adapted_by_lora_exported_whole_and_gone_on_with(
    walk: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, given = tmp_path / "run", torch.load(weights, weights_only=True)
    asked = ("--run-dir", str(run), "--encoder.weights", str(weights), *ADAPT, *SMALL, "--replay", walk)
    assert main([*asked, "--max-steps", "2"]) == 0
    assert "may destroy" not in capsys.readouterr().err
    exported = load_file(run / "export" / "student.safetensors")
    assert all(torch.equal(tensor, given[name]) for name, tensor in exported.items())
    weights.unlink()
    summary = learn(capsys, *asked)
    assert summary["steps"] == 8
    assert summary["gauges_last"]["start_cosine"] == pytest.approx(1, abs=0.01)
    exported = load_file(run / "export" / "student.safetensors")
    model = timm.create_model("vit_small_patch8_224", num_classes=0, img_size=24, embed_dim=128, depth=2, num_heads=2)
    model.load_state_dict(exported)
    moved = {name for name, tensor in exported.items() if not torch.equal(tensor, given[name])}
    corrected = {f"blocks.0.{one}.weight" for one in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert moved >= corrected
    assert all(name in corrected or name.startswith(("blocks.1.", "norm.")) for name in moved)
    learner = committed(run, settings_of(run))
    start = learner.trainer.state_dict()["start"]
    assert all(torch.equal(start[f"backbone.{name}"], given[name]) for name in exported)
    card = json.loads((run / "export" / "student.json").read_text())
    assert card["settings"]["adapt"]["plan"] == "lora"
    line = refusal(capsys, *("--run-dir", str(run), "--adapt", "full", *SMALL, "--replay", walk))
    assert "was made with --adapt lora: choose another --run-dir, or leave out --adapt to go on" in line


def test_a_run_that_may_forget_is_told_what_to_ask_for(
    walk: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--run-dir", str(tmp_path / "run"), "--encoder.weights", str(weights), *SMALL, "--replay", walk)
    assert main([word for word in (*words, "--max-steps", "0") if word != "--json"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "all its weights train at a rate of 0.001, which may destroy what they know: --adapt lora, last or full" in said
    )


def test_adapting_nothing_is_refused_and_leaves_no_folder(
    walk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "--adapt", "lora", "--run-dir", str(tmp_path / "run"), "--replay", walk)
    assert "--adapt lora adapts weights: add --encoder.weights FILE, or --fork RUN" in line
    unknown = refusal(capsys, "--adapt", "some", "--run-dir", str(tmp_path / "run"), "--replay", walk)
    assert "--adapt must be one of last, lora, full, got 'some'" in unknown
    assert not (tmp_path / "run").exists()


def test_a_plan_brings_its_numbers_slows_teachers_down_and_yields_to_flags_and_files(tmp_path: Path) -> None:
    timm_weights = ("--encoder.weights", "timm:vit_small_patch14_dinov2.lvd142m")
    for size, momentum in (("cpu", 0.996), ("gpu", 0.999)):
        made = settings("--preset", size, *timm_weights, "--adapt", "full", "--adapt.layer-decay", "0.75").learner
        assert made.adapt == AdaptConfig(**{**vars(planned("full", size)), "layer_decay": 0.75})
        assert vars(made.objective)["teacher_momentum"] == momentum
    assert (
        vars(settings(*timm_weights, "--adapt", "last", "--objective", "moco").learner.objective)["momentum"] == 0.996
    )
    assert settings(*timm_weights, "--adapt", "last", "--objective", "mae").learner.adapt.plan == "last"
    file = tmp_path / "learner.toml"
    file.write_text('adapt = "lora"\n[encoder]\nweights = "timm:vit_small_patch14_dinov2.lvd142m"\n')
    assert settings("--config", str(file)).learner.adapt == planned("lora", "cpu")
    file.write_text(f'[adapt]\nname = "lora"\nrank = 16\n[encoder]\nweights = "{timm_weights[1]}"\n')
    assert settings("--config", str(file)).learner.adapt.rank == 16


def test_a_fork_may_adapt_what_another_run_has_learned(
    walk: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    source = ("--replay", walk, "--control")
    learn(capsys, "--run-dir", str(old), "--encoder.weights", str(weights), *ADAPT, *SMALL, *source)
    words = ("--fork", str(old), "--run-dir", str(new), "--http-port", "0", "--json", *source)
    learn(capsys, *words, "--adapt", "last", "--max-steps", "0")
    exported = [load_file(run / "export" / "student.safetensors") for run in (old, new)]
    assert all(torch.equal(tensor, exported[1][name]) for name, tensor in exported[0].items())
    assert settings_of(new).adapt == planned("last", "cpu")
    assert begin({"fork": str(old)}).learner.adapt == settings_of(old).adapt
