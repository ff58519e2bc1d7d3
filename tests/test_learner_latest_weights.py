"""The newest good weights: each healthy commit brings them, a doubtful one and a full disk leave those before."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from committing import Acknowledging
from prometheus_client import generate_latest
from tiny_learner import TINY, make_pairs, tiny_learner

from buffer.store import Store
from learner.loop import Learner, learn
from learner.metrics import LearnerMetrics
from learner.runs.checkpoint import CheckpointFolder
from learner.runs.commit import Committer
from learner.runs.folder import RunDirectory
from learner.weights.latest import LatestWeights


def export_names() -> set[str]:
    return {f"{who}.{suffix}" for who in ("student", "teacher") for suffix in ("safetensors", "json", "md")}


def healthy(learner: Learner) -> dict[str, Any]:
    learner.trainer.guard.doubt = 0  # a random start has signs of collapse
    return learner.state_dict()


def card(folder: Path, who: str = "student") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{who}.json").read_text())
    return found


def trained_learner(steps: int = 3) -> Learner:
    learner = tiny_learner()
    events = learn(learner, Acknowledging(make_pairs(30)), clock=time.monotonic)
    while learner.steps < steps:
        next(events)
    return learner


@contextmanager
def committing(path: Path, learner: Learner) -> Iterator[Committer]:
    directory, metrics = RunDirectory(path, TINY), LearnerMetrics()
    latest_weights = LatestWeights(learner, directory.export, metrics=metrics)
    with Store(directory.store) as store:
        source = Acknowledging(make_pairs(30))
        with closing(
            Committer(
                learner,
                source,
                store,
                CheckpointFolder(directory.checkpoints),
                clock=time.monotonic,
                publish=latest_weights.export,
            )
        ) as committer:
            yield committer


def test_timm_loads_from_the_folder_what_the_networks_were_at_the_commit(tmp_path: Path) -> None:
    learner = trained_learner()
    state = healthy(learner)
    metrics = LearnerMetrics()
    latest_weights = LatestWeights(learner, tmp_path / "export", metrics=metrics)
    latest_weights.set_probes({"probe": {}, "probed_steps": [0]})
    latest_weights.export(state)
    assert {path.name for path in (tmp_path / "export").iterdir()} == export_names()
    for who, encoder in learner.objective.encoders().items():
        said, path = card(tmp_path / "export", who), tmp_path / "export" / f"{who}.safetensors"
        model = timm.create_model(said["backbone"], checkpoint_path=str(path), **said["arguments"])
        ours = encoder.backbone.state_dict()
        assert all(torch.equal(tensor, ours[name]) for name, tensor in model.state_dict().items())
        assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (said["figures"]["steps"], said["figures"]["pairs_received"]) == (3, learner.received)
        assert said["figures"]["stream"]["devices"] == ["baby"]
    assert b"babyagent_learner_exported_step 3.0" in generate_latest(metrics.registry)


def test_a_card_has_no_probe_of_later_weights_than_its_own(tmp_path: Path) -> None:
    learner = trained_learner()
    state = healthy(learner)
    good = learner.trainer.fine = {"step": 2, "objective": state["objective"]}
    latest_weights = LatestWeights(learner, tmp_path / "export", metrics=LearnerMetrics())
    for step in (0, 2, 3, 4, 5):
        latest_weights.set_probes({"probe": {}, "probed_steps": [0, step]})
    latest_weights.export(state | {"fine": good})
    figures = card(tmp_path / "export", "student")["figures"]
    assert (figures["steps"], figures["probed_steps"]) == (2, [0, 2])


def test_a_commit_in_doubt_leaves_the_weights_before_it(tmp_path: Path) -> None:
    learner = trained_learner()
    latest_weights = LatestWeights(learner, tmp_path, metrics=LearnerMetrics())
    doubtful = healthy(learner) | {"guard": {"doubt": 1, "since": 0, "rollbacks": 0, "setbacks": 0}}
    latest_weights.export(doubtful)
    assert not list(tmp_path.iterdir()), "nothing good yet"
    latest_weights.export(healthy(learner))
    before = (tmp_path / "student.safetensors").read_bytes()
    learner.objective.load_state_dict({name: value + 1 for name, value in learner.objective.state_dict().items()})
    learner.trainer.steps += 1
    latest_weights.export(learner.state_dict() | {"guard": doubtful["guard"]})
    assert "keeps earlier weights: those of step 4 are in doubt" in latest_weights.conclude({"steps": 4})
    assert (tmp_path / "student.safetensors").read_bytes() == before
    assert card(tmp_path)["figures"]["steps"] == 3


def test_at_the_end_the_cards_have_the_figures_of_the_run_and_the_weights_stay(tmp_path: Path) -> None:
    learner = trained_learner()
    latest_weights = LatestWeights(learner, tmp_path, metrics=LearnerMetrics())
    latest_weights.export(healthy(learner))
    weights, before = (tmp_path / "teacher.safetensors").read_bytes(), card(tmp_path, "teacher")
    assert latest_weights.conclude({"steps": 3, "loss_last": 2.5}) == ""
    assert (tmp_path / "teacher.safetensors").read_bytes() == weights
    after = card(tmp_path, "teacher")
    assert after.pop("figures")["loss_last"] == 2.5
    assert after.items() <= before.items()


def test_a_run_that_was_never_free_of_doubt_exports_its_last_weights_and_says_so(tmp_path: Path) -> None:
    latest_weights = LatestWeights(trained_learner(), tmp_path, metrics=LearnerMetrics())
    assert "are in doubt" in latest_weights.conclude({"steps": 3})
    assert card(tmp_path)["figures"]["in_doubt"] is True
    assert "**In doubt**" in (tmp_path / "student.md").read_text()


def test_a_full_disk_is_said_and_the_next_commit_tries_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learner = trained_learner()
    latest_weights = LatestWeights(learner, tmp_path, metrics=LearnerMetrics())
    draft = tmp_path / ".student.safetensors"
    draft.symlink_to("/dev/full")
    latest_weights.export(healthy(learner))
    assert "weights of step 3 could not be exported" in caplog.text
    assert not (tmp_path / "student.safetensors").exists()
    draft.unlink()
    latest_weights.export(healthy(learner))
    assert {path.name for path in tmp_path.iterdir()} == export_names()


def test_each_commit_brings_its_weights_before_the_next_one_is_copied_over_them(tmp_path: Path) -> None:
    learner = tiny_learner()
    with committing(tmp_path, learner) as committer:
        for step in (3, 4, 5):
            learner.trainer.steps = step
            with torch.no_grad():
                for weight in learner.objective.trained():
                    weight.fill_(step)
            committer.begin()
            committer.settle(wait=True)
        committer.finish()
    model = timm.create_model(
        TINY.encoder.backbone,
        checkpoint_path=str(tmp_path / "export" / "student.safetensors"),
        **card(tmp_path / "export")["arguments"],
    )
    assert all(bool((weight == 5).all()) for weight in model.parameters())
    assert card(tmp_path / "export")["figures"]["steps"] == 5


def test_weights_of_a_commit_that_failed_are_not_handed_out(tmp_path: Path) -> None:
    learner = tiny_learner()
    with committing(tmp_path, learner) as committer:
        (tmp_path / "checkpoints").write_text("in the way")
        committer.begin()
        with pytest.raises(OSError, match="checkpoints"):
            committer.settle(wait=True)
    assert not (tmp_path / "export").exists()
