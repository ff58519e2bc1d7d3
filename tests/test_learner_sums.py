"""A weighted sum of two objectives: one encoder, two losses, each with its own teacher."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from every_objective import CPU, see, seeded, small, some_pairs, total, trainer

from learner.cli.settings import _in_patches
from learner.cli.train import COMMAND
from learner.config import to_plain
from learner.errors import SettingsError
from learner.networks.norm import SharedBatchNorm
from learner.objectives.contract import Objective
from learner.objectives.foreign import objective_named
from learner.objectives.masked.mae import MAEConfig
from learner.objectives.ntxent import NTXentConfig
from learner.runs.checkpoint import load_checkpoint, save_checkpoint
from learner.runs.fork import _take_networks
from learner.runs.settings import from_plain
from learner.trainer import Trainer
from learner.views.masks import MasksConfig

pytestmark = pytest.mark.usefixtures("one_thread")


NO_SIZES: dict[str, Any] = dict.fromkeys(("image_size", "patch_size", "embed_dim", "depth", "heads"))


def weighted(name: str, weight: float) -> Any:
    """A sum past its random start, and each of its parts seeing what it sees."""
    objective: Any = trainer(name).objective
    objective.config = replace(objective.config, weight=weight)
    views = objective.views(some_pairs(), seeded())
    for part in (objective, objective.first, objective.second):
        see(part, views)
    return objective


@pytest.mark.parametrize("name", ["ntxent+vicreg", "ijepa+mae", "dino+byol"])
@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_losses_priorities_and_terms_are_the_weighted_sums_of_both(name: str, weight: float) -> None:
    objective = weighted(name, weight)
    one, other, both = (part(some_pairs(), seeded()) for part in (objective.first, objective.second, objective))
    assert torch.allclose(both.losses, one.losses + weight * other.losses)
    assert torch.allclose(both.ranked_by, one.ranked_by + weight * other.ranked_by)
    assert torch.allclose(total(both), total(one) + weight * total(other))
    assert torch.equal(both.features, one.features)
    assert torch.allclose(both.gauges["second_loss"], total(other))


def test_both_learn_one_encoder_and_the_gradient_is_the_weighted_sum() -> None:
    objective = weighted("ntxent+vicreg", 0.5)
    assert objective.first.student.encoder is objective.second.student.encoder is objective.student.encoder
    gradients = []
    for part in (objective.first, objective.second, objective):
        objective.zero_grad()
        torch.autograd.backward(total(part(some_pairs(), seeded())))
        gradients.append(next(objective.student.encoder.parameters()).grad.clone())
    assert torch.allclose(gradients[2], gradients[0] + 0.5 * gradients[1], rtol=1e-3, atol=1e-5)


def test_each_teacher_follows_the_shared_encoder_once_a_step_by_its_own_momentum() -> None:
    made = trainer("ntxent+byol")
    objective: Any = made.objective
    teachers = [part.teacher for part in (objective.first, objective.second)]
    teachers[1].momentum = 0.5
    before = [next(teacher.encoder.parameters()).clone() for teacher in teachers]
    made.step(some_pairs())
    now = next(objective.student.encoder.parameters())
    for teacher, then in zip(teachers, before, strict=True):
        assert torch.allclose(
            next(teacher.encoder.parameters()), teacher.momentum * then + (1 - teacher.momentum) * now
        )
    assert objective.encoders() == {"student": objective.student.encoder, "teacher": teachers[0].encoder}


def test_the_batch_norms_of_a_shared_encoder_move_once_a_step() -> None:
    config = small("simclr+vicreg")
    made = Trainer(replace(config, encoder=replace(config.encoder, backbone="resnet10t", **NO_SIZES)), CPU)
    norm: Any = next(part for part in made.objective.modules() if isinstance(part, SharedBatchNorm))
    before = norm.running_mean.clone()
    made.objective(some_pairs(), seeded())
    assert norm._seen is not None
    seen = norm._seen[0]
    made.objective.after_step()
    assert torch.allclose(norm.running_mean, before.lerp(seen, norm.momentum or 0.1))


def test_what_is_shared_is_stored_once_and_loaded_into_both(tmp_path: Path) -> None:
    first, second = trainer("ntxent+byol", 1), trainer("ntxent+byol", 2)
    first.step(some_pairs())
    state = first.objective.state_dict()
    assert len({value.data_ptr() for value in state.values() if value.numel()}) == len(
        [value for value in state.values() if value.numel()]
    )
    save_checkpoint(tmp_path / "kept", {"objective": dict(state)})
    second.objective.load_state_dict(load_checkpoint(tmp_path / "kept")["objective"])
    ours, theirs = (made.objective(some_pairs(), seeded()).losses for made in (first, second))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("old", "new"), [("ntxent+byol", "simclr"), ("simclr", "ntxent+byol"), ("ntxent+byol", "mae+ijepa")]
)
def test_a_fork_takes_the_encoder_from_a_sum_and_into_one(old: str, new: str) -> None:
    theirs, ours = trainer(old, 1).objective, trainer(new, 2).objective
    _take_networks(theirs.state_dict(), ours)
    expected = theirs.encoders()["student"].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in ours.encoders()["student"].state_dict().items())


def test_where_two_share_no_views_the_second_one_has_its_own() -> None:
    learner = settings("--objective", "ntxent+mae", "--objective.second-views.hidden", "0.5")
    assert isinstance(learner.objective.first, NTXentConfig)
    assert isinstance(learner.objective.second, MAEConfig)
    assert learner.objective.second_views == replace(MasksConfig.for_preset("cpu"), hidden=0.5)
    assert learner.views_name == "guided"
    made = Trainer(replace(small("ntxent+mae"), objective=learner.objective), CPU)
    assert not made.step(some_pairs()).is_refused
    assert {"teacher_view", "guessed"} < made.objective.pictures(some_pairs(), seeded()).keys()


def settings(*words: str) -> Any:
    return COMMAND.parse([*words]).learner


def test_settings_of_both_are_flags_and_come_back_as_they_were_written(tmp_path: Path) -> None:
    words = ("--objective.weight", "0.3", "--objective.first.temperature", "0.4", "--objective.second.momentum", "0.9")
    learner = settings("--objective", "ntxent+byol", *words)
    chosen = learner.objective
    assert (chosen.weight, chosen.first.temperature, chosen.second.momentum) == (0.3, 0.4, 0.9)
    assert from_plain(to_plain(learner)) == learner
    path = tmp_path / "learner.toml"
    path.write_text('[objective]\nname = "ntxent+byol"\nweight = 0.3\n[objective.first]\ntemperature = 0.4\n')
    assert settings("--config", str(path), *words[-2:]) == learner


def test_a_sum_may_be_the_first_one_of_another_sum() -> None:
    made = trainer("ntxent+byol+vicreg")
    assert {"first_loss", "second_loss", "variance", "view_cosine"} < made.step(some_pairs()).report.gauges.keys()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ntxent+ntxent", "--objective ntxent is not added to itself: name each one once"),
        ("ntxent+byol+ntxent", "--objective ntxent is not added to itself: name each one once"),
        ("ntxent+labels+labels", "--objective labels is not added to itself: name each one once"),
        ("ntxent+simcrl", "--objective must be one of babyagent"),
        ("+mae", "--objective must be one of babyagent"),
    ],
)
def test_a_sum_that_is_none_is_refused_in_one_line(name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{re.escape(said)}.*$"):
        objective_named(name)


@pytest.mark.parametrize("name", ["ntxent+vicreg", "mae+ntxent", "ntxent+labels", "ntxent+byol+vicreg"])
@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_help_explains_the_settings_of_a_sum(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        COMMAND.parse(["--objective", name, flag])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "--objective.weight FLOAT Weight of the second objective; that of the first one is 1." in text
    assert "Whether weight decay also applies to biases, norms and tokens." in text


def test_a_near_name_is_proposed() -> None:
    with pytest.raises(SettingsError, match=r"got 'simcrl': did you mean simclr\?$"):
        objective_named("ntxent+simcrl")


def test_sizes_of_views_fit_the_patches_of_other_weights() -> None:
    learner = settings("--objective", "ntxent+mae")
    assert learner.objective.second_views.size == 32
    assert _in_patches(learner.objective, 14).second_views.size == 42


def test_biases_decay_as_those_of_the_first_one_do() -> None:
    assert settings("--objective", "babyagent+simclr").objective.decay_biases
    assert not settings("--objective", "simclr+babyagent").objective.decay_biases


def test_views_are_those_that_the_first_one_and_on_its_own_the_second_one_has_by_itself() -> None:
    alone = settings("--objective", "ntxent").views
    assert settings("--objective", "ntxent+byol").views == alone
    assert settings("--objective", "mae+ntxent").objective.second_views == alone
    assert settings("--objective", "babyagent+ntxent").views_name == "guided"


def test_one_class_for_the_same_two() -> None:
    kind: type[Objective[Any]] = objective_named("ntxent+mae")
    assert objective_named("ntxent+mae") is kind is not objective_named("mae+ntxent")
