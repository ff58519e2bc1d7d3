"""What a run starts from: weights or another run, as a person asks for them; the run remembers it and needs neither again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from committing import run as training
from learner_command import SMALL, learn, refusal
from published_weights import official
from recorded import recorded
from safetensors.torch import load_file
from tiny_learner import FLAGS, TINY, committed, make_pairs, tiny_learner

from learner.__main__ import main
from learner.adapt.config import planned
from learner.cli.settings import begin
from learner.config import LearnerConfig, to_plain
from learner.errors import SettingsError
from learner.loop import Learner
from learner.networks.encoder import EncoderConfig
from learner.runs.fork import Fork
from learner.runs.settings import settings_of

pytestmark = pytest.mark.usefixtures("own_signals", "one_thread")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(recorded(tmp_path_factory.mktemp("walk") / "walk.mcap", make_pairs(24)))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(official("dino", patch=8), tmp_path / "dino.pth")
    return tmp_path / "dino.pth"


def test_a_run_starts_from_weights_says_so_and_goes_on_without_the_file(
    walk: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, source = tmp_path / "run", ("--replay", walk)
    asked = ("--run-dir", str(run), "--encoder.weights", str(weights), *SMALL)
    start = learn(capsys, *asked, *source, "--max-steps", "1")["start"]
    assert (start["name"], start["backbone"]) == (str(weights), "vit_small_patch8_224.dino")
    assert start["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert json.loads((run / "start.json").read_text()) == start
    probes = [json.loads(line) for line in (run / "probes.jsonl").read_text().splitlines()]
    assert {line["knn"] for line in probes if line["step"] == 0 and line["encoder"] == "student"} == {
        line["knn"] for line in probes if line["step"] == 0 and line["encoder"] == "teacher"
    }
    before = {line["encoder"]: line["knn"] for line in probes if line["step"] == 0}
    weights.unlink()
    summary = learn(capsys, *asked, *source)
    assert summary["steps"] > 1
    assert summary["start"] == start
    assert summary["probe"]["digits"]["before"]["knn_student"] == before["student"]
    words = f"vit_small_patch8_224.dino from {weights} (sha256 {start['sha256'][:12]})"
    assert words in (run / "report.html").read_text()
    assert words in (run / "export" / "student.md").read_text()
    other = str(tmp_path / "other.pth")
    assert "made with other settings" in refusal(capsys, "--run-dir", str(run), "--encoder.weights", other, *SMALL)


def test_networks_at_step_0_are_those_of_the_file(
    walk: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    learn(
        capsys, "--run-dir", str(run), "--encoder.weights", str(weights), *SMALL, "--replay", walk, "--max-steps", "0"
    )
    given = torch.load(weights, weights_only=True)
    for name in ("student", "teacher"):
        exported = load_file(run / "export" / f"{name}.safetensors")
        assert all(torch.equal(tensor, given[key]) for key, tensor in exported.items())


def test_weights_that_cannot_be_used_are_one_line_and_leave_no_folder(
    walk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "page.pth"
    broken.write_text("<html> not found")
    to = ("--run-dir", str(tmp_path / "run"), "--replay", walk, *SMALL)
    assert "neither safetensors nor a .pth" in refusal(capsys, *to, "--encoder.weights", str(broken))
    tagged = refusal(capsys, *to, "--encoder.backbone", "vit_tiny_patch16_224.augreg_in21k")
    assert "add --encoder.weights timm:vit_tiny_patch16_224.augreg_in21k" in tagged
    assert not (tmp_path / "run").exists()


def test_sizes_of_the_preset_do_not_apply_to_weights_and_views_fit_their_patches(tmp_path: Path) -> None:
    torch.save(official("dinov2"), tmp_path / "dinov2.pth")
    found = begin({"encoder.weights": str(tmp_path / "dinov2.pth")}).learner
    assert (found.encoder.backbone, found.encoder.embed_dim) == ("vit_small_patch14_dinov2", 128)
    assert found.encoder.patch_size is None
    sizes = {name: value for name, value in vars(found.views).items() if name.endswith("_size")}
    assert sizes == {"attention_size": 56, "teacher_size": 42, "student_size": 28}
    found = begin({"encoder.weights": "timm:vit_small_patch14_dinov2.lvd142m", "objective": "simclr"}).learner
    assert (found.encoder.backbone, found.encoder.depth) == ("vit_small_patch14_dinov2.lvd142m", None)
    assert found.views.probe_size % 14 == 0


@pytest.fixture(scope="module")
def old_run(walk: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("old") / "run"
    memory = ("--memory.canvas", "24", "32", "--memory.capacity", "16", "--memory.fresh-capacity", "16")
    assert main(["--run-dir", str(run), *FLAGS, *memory, "--http-port", "0", "--control", "--replay", walk]) == 0
    return run


QUIET = ("--http-port", "0", "--control", "--json")


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def fork_words(old: Path, run: Path, *words: str) -> tuple[str, ...]:
    return ("--fork", str(old), "--run-dir", str(run), "--http-port", "0", "--control", "--json", *words)


def test_a_fork_has_weights_and_memory_of_its_run_and_settings_of_its_own(
    walk: str, old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, before = tmp_path / "run", files_of(old_run)
    words = fork_words(old_run, run, "--schedule.learning-rate", "1e-5", "--replay", walk)
    start = learn(capsys, *words, "--max-steps", "0")["start"]
    old, new = committed(old_run, settings_of(old_run)), committed(run, settings_of(run))
    assert (start["from"], start["name"], start["step"]) == ("run", str(old_run), old.steps)
    assert start["pairs"] == len(old.memory) == len(new.memory) == 16
    assert (new.steps, new.config.schedule.learning_rate, new.config.fork) == (0, 1e-5, str(old_run))
    assert all(torch.equal(a, b) for a, b in zip(old.objective.parameters(), new.objective.parameters(), strict=True))
    assert np.array_equal(old.memory.slots.keys(), new.memory.slots.keys())
    reservoirs = old.memory.ranking.reservoir, new.memory.ranking.reservoir
    first, second = (one.scores(np.sort(one.keys())) for one in reservoirs)
    assert np.array_equal(first, second)
    batches = [one.memory.slots.batch(one.memory.slots.of(one.memory.slots.keys()), one.device) for one in (old, new)]
    assert torch.equal(batches[0].left, batches[1].left)
    assert files_of(old_run) == before
    summary = learn(capsys, *fork_words(old_run, run, "--replay", walk))
    assert summary["start"] == start
    assert summary["steps"] > 0
    assert "at step" in (run / "report.html").read_text()


def test_a_fork_goes_on_when_its_old_run_is_gone(
    walk: str, old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, run = tmp_path / "old", tmp_path / "run"
    shutil.copytree(old_run, old)
    learn(capsys, *fork_words(old, run, "--replay", walk, "--max-steps", "1"))
    shutil.rmtree(old)
    assert (
        learn(capsys, "--run-dir", str(run), "--http-port", "0", "--control", "--json", "--replay", walk)["steps"] > 1
    )


def test_a_fork_of_a_run_at_work_has_all_pairs_of_its_commit_though_later_commits_have_dropped_them(
    tmp_path: Path,
) -> None:
    memory = dataclasses.replace(TINY.memory, capacity=16, fresh_capacity=16)
    config = dataclasses.replace(TINY, memory=memory)
    with training(tmp_path / "old", pairs=make_pairs(120), config=config) as run:
        run.train(10)
        run.committer.finish()
        before = set(run.learner.memory.slots.keys().tolist())
        new = Learner(dataclasses.replace(config, fork=str(tmp_path / "old")), torch.device("cpu"), begins=False)
        fork, copied = Fork(tmp_path / "old"), []
        fork.networks(new)
        for _ in range(2):
            run.train(15)
            run.committer.begin()
            run.committer.settle(wait=True)
        assert before - set(run.learner.memory.slots.keys().tolist())
        start = fork.memory(new, lambda key, _pair: copied.append(key))
    assert start["pairs"] == len(copied) == len(before) == len(new.memory)
    assert set(copied) == before


def test_a_fork_may_have_a_smaller_memory_and_another_objective(
    walk: str, old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = fork_words(old_run, run, "--objective", "simclr", "--views.size", "16", "--memory.capacity", "8")
    learn(capsys, *words, "--replay", walk, "--max-steps", "0")
    old, new = committed(old_run, settings_of(old_run)), committed(run, settings_of(run))
    assert (new.config.objective.name, new.config.pacing) == ("simclr", old.config.pacing)
    assert len(new.memory) == 8
    assert {*new.memory.slots.keys().tolist()} < {*old.memory.slots.keys().tolist()}
    weights = (one.objective.encoders()["student"].parameters() for one in (old, new))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("clip", [1, 2, 4])
def test_a_fork_of_a_run_of_clips_has_its_pairs_in_clips_of_its_own_length(
    clip: int, walk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, run = tmp_path / "old", tmp_path / "run"
    memory = ("--memory.canvas", "24", "32", "--memory.capacity", "16", "--memory.fresh-capacity", "16")
    learn(capsys, "--run-dir", str(old), *FLAGS, *memory, "--memory.clip", "4", *QUIET, "--replay", walk)
    learn(capsys, *fork_words(old, run, "--memory.clip", str(clip), "--replay", walk, "--max-steps", "0"))
    before, after = (committed(one, settings_of(one)).memory.slots for one in (old, run))
    assert np.array_equal(before.keys(), after.keys())
    lengths = np.unique(after.clips[after.of(after.keys())], return_counts=True)[1]
    assert set(lengths.tolist()) == {clip}


def test_what_a_fork_changes_has_the_numbers_of_the_size_of_its_run_and_views_of_whole_patches(tmp_path: Path) -> None:
    def asked(**words: str) -> LearnerConfig:
        return begin({"run_dir": str(tmp_path / "new")} | words).learner

    def fork_of(old: LearnerConfig, **words: str) -> LearnerConfig:
        (tmp_path / "config.json").write_text(json.dumps(to_plain(old)))
        return asked(fork=str(tmp_path), **words)

    gpu = asked(preset="gpu")
    straight, fork = asked(preset="gpu", objective="dino"), fork_of(gpu, objective="dino")
    assert (fork.objective, fork.views) == (straight.objective, straight.views)
    assert (fork.precision, fork.encoder) == (gpu.precision, gpu.encoder)
    assert fork_of(gpu, adapt="lora").adapt == planned("lora", "gpu")
    assert fork_of(asked(preset="cpu"), adapt="lora").adapt == planned("lora", "cpu")
    assert fork_of(gpu, preset="cpu", adapt="lora").adapt == planned("lora", "cpu")
    large = dataclasses.replace(gpu, encoder=EncoderConfig(backbone="vit_small_patch14_dinov2"))
    assert fork_of(large, objective="simclr").crops.probe_size == 224
    assert fork_of(large, objective="simclr", preset="cpu").crops.probe_size == 42


def test_a_fork_that_cannot_be_says_why_in_one_line(
    walk: str, old_run: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = fork_words(old_run, tmp_path / "run", "--replay", walk)
    both = refusal(capsys, *words, "--encoder.weights", str(weights))
    assert "--fork and --encoder.weights exclude each other" in both
    wide = refusal(capsys, *words, "--encoder.embed-dim", "64", "--encoder.heads", "2")
    assert "the student of the old run does not fit backbone vit_tiny_patch16_224" in wide
    assert not (tmp_path / "run").exists()
    assert "is no run, it has no config.json" in refusal(
        capsys, *fork_words(tmp_path, tmp_path / "run", "--replay", walk)
    )
    with pytest.raises(SettingsError, match=r"is begun by `learner\.runs\.fork\.Fork`"):
        tiny_learner(settings_of_fork(old_run))


def settings_of_fork(old: Path) -> Any:
    return begin({"fork": str(old)}).learner


def test_a_run_of_today_without_weights_says_that_it_began_at_random(
    walk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    memory = ("--memory.canvas", "24", "32", "--memory.capacity", "16", "--memory.fresh-capacity", "16")
    summary = learn(
        capsys, "--run-dir", str(run), *FLAGS, *memory, "--http-port", "0", "--json", "--control", "--replay", walk
    )
    assert summary["start"] == {"from": "random"}
    assert "Started from random weights." in (run / "report.html").read_text()
    assert TINY.fork is None
