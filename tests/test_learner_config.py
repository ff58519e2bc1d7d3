"""The tree of settings: presets that hold together, errors that name the setting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_learner import TINY

from learner.config import PRESETS, LearnerConfig, differences, preset
from learner.errors import SettingsError
from learner.loop import Learner
from learner.objectives.babyagent import BabyAgent, BabyAgentConfig
from learner.objectives.contrastive import Contrastive, ContrastiveConfig
from learner.objectives.ntxent import NTXentConfig
from learner.objectives.table import OBJECTIVES
from learner.pacing import PacingConfig


def test_the_small_preset_builds_a_learner_whose_images_have_the_sizes_it_says() -> None:
    learner = Learner(PRESETS["cpu"], torch.device("cpu"))
    assert learner.wanted() == PRESETS["cpu"].pacing.batch_size
    assert learner.memory.slots.left.shape[1:3] == PRESETS["cpu"].memory.canvas


def test_by_default_it_learns_with_the_objective_that_learns_most_on_a_stream() -> None:
    for config in (LearnerConfig(), *PRESETS.values()):
        assert (config.objective.name, config.views_name) == ("ntxent", "guided")


def test_the_large_preset_has_the_numbers_of_the_seed_and_the_small_ones_centring_and_second_term() -> None:
    """DeiT-S, batch 128, learning rate 5e-4; built only where there is a GPU."""
    config = preset("gpu", BabyAgent)
    assert config.encoder.timm_arguments() == {"num_classes": 0}
    assert config.encoder.backbone == "deit_small_patch16_224"
    assert config.pacing.batch_size == 128
    assert config.schedule.learning_rate == 5e-4
    small, seeds = preset("cpu", BabyAgent).objective, BabyAgentConfig()
    assert isinstance(small, BabyAgentConfig)
    measured = {
        name: getattr(small, name) for name in ("centring", "repulsion", "repelled_by", "repulsion_temperature")
    }
    assert config.objective == replace(seeds, **measured)


def test_a_batch_larger_than_the_queue_of_fresh_pairs_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"fresh_capacity 16 must hold at least one batch of 17"):
        replace(TINY, pacing=PacingConfig(batch_size=17))


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 1 << 64}, {"seed": 10**400}, {"max_refused_steps": 0}, {"max_refused_steps": -1}]
)
def test_a_number_out_of_bounds_is_refused_by_its_name(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=rf"^{name} must be .*, got -?\d+$"):
        LearnerConfig(**wrong)  # type: ignore[arg-type]


def test_a_whole_number_larger_than_any_float_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match=r"^objective: temperature must be above 0, got -1"):
        NTXentConfig(temperature=-(10**400))


def test_equal_settings_have_no_differences() -> None:
    assert differences(TINY, replace(TINY)) == []


def test_a_difference_is_named_by_its_flag_with_both_values() -> None:
    assert isinstance(TINY.objective, BabyAgentConfig)
    other = replace(TINY, seed=2, objective=replace(TINY.objective, student_scale=(0.1, 0.2)))
    assert differences(other, TINY) == ["objective.student_scale: (0.1, 0.2), (0.4, 0.8)", "seed: 2, 0"]


def test_of_two_objectives_the_names_differ_and_what_both_have() -> None:
    babyagent = preset("cpu", BabyAgent)
    other = replace(babyagent, objective=ContrastiveConfig(hidden=7))
    assert differences(other, babyagent)[:2] == [
        "objective.name: 'contrastive', 'babyagent'",
        "objective.crops: 8, 4",
    ]
    assert differences(preset("cpu", Contrastive), babyagent) == ["objective.name: 'contrastive', 'babyagent'"]


def test_every_objective_is_found_by_its_name_and_builds_what_it_says() -> None:
    for name, kind in OBJECTIVES.items():
        config = preset("cpu", kind)
        assert type(Learner(config, torch.device("cpu")).objective) is kind
        assert config.objective.name == name


def test_a_setting_cannot_be_changed_afterwards() -> None:
    config = LearnerConfig()
    with pytest.raises(AttributeError):
        config.seed = 5  # type: ignore[misc]
