"""What the ablation bench may change, one thing a row: in the recipe, or in what the rig's stream brings.

A row of the recipe is the preset with some settings elsewhere, mostly where the seed (000) has them. A row of the stream is the
preset on the same walk with one of the rig's ideas taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from learner.config import PRESETS, LearnerConfig
from learner.networks.encoder import EncoderConfig
from learner.objectives.babyagent import BabyAgent, BabyAgentConfig
from learner.views.augment import Augmentation
from stream.codec import encode_pair
from stream.pair import EncodedPair

Pairs = Sequence[EncodedPair]


def _as_it_is(config: LearnerConfig) -> LearnerConfig:
    return config


def _in_order(pairs: Pairs, _seed: int) -> Pairs:
    return pairs


@dataclass(frozen=True)
class Row:
    """One change. dedupe: whether the rig drops what it has seen; sent: what becomes of the pairs it sends."""

    settings: Callable[[LearnerConfig], LearnerConfig] = _as_it_is
    dedupe: bool = True
    sent: Callable[[Pairs, int], Pairs] = _in_order


def changed(config: LearnerConfig, settings: Mapping[str, Any]) -> LearnerConfig:
    """The configuration with some settings replaced, by their dotted names: `{"objective.crops": 2}`."""
    for name, value in settings.items():
        config = _replaced(config, name.split("."), value)
    return config


def _replaced(config: Any, path: Sequence[str], value: Any) -> Any:
    inner = value if len(path) == 1 else _replaced(getattr(config, path[0]), path[1:], value)
    return replace(config, **{path[0]: inner})


def _with(**settings: Any) -> Row:
    """Settings of the objective."""
    named = {f"objective.{name}": value for name, value in settings.items()}
    return Row(lambda config: changed(config, named))


def with_the_seeds_numbers(config: LearnerConfig) -> LearnerConfig:
    """Its objective's temperatures, centring, repulsion and EMA rate, and its learning rate; views and network stay."""
    plain = BabyAgentConfig()
    names = (
        "student_temperature",
        "teacher_temperature",
        "centring",
        "repulsion",
        "repelled_by",
        "repulsion_temperature",
    )
    numbers = {f"objective.{name}": getattr(plain, name) for name in (*names, "teacher_momentum")}
    return changed(config, numbers | {"schedule.learning_rate": 5e-4})


def _with_infonce(config: LearnerConfig) -> LearnerConfig:
    return replace(config, objective=PRESETS["contrastive"].objective)


class _Stray(BabyAgent):
    """Looks anywhere: windows as large as attention makes them, their places uniform over the image."""

    def gaze(self, attention: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        head, mean, std = super().gaze(attention, generator)
        return head, torch.rand(mean.shape, device=mean.device, generator=generator), std


@dataclass(frozen=True, kw_only=True)
class _StrayConfig(BabyAgentConfig):
    def build(self, encoder: EncoderConfig) -> BabyAgent:
        return _Stray(encoder, self)


def _stray(config: LearnerConfig) -> LearnerConfig:
    objective = config.objective
    assert isinstance(objective, BabyAgentConfig)  # refused with the settings
    settings = {field.name: getattr(objective, field.name) for field in fields(objective)}
    return replace(config, objective=_StrayConfig(**settings))


def _left_only(pairs: Pairs, _seed: int) -> Pairs:
    return [_again(pair, pair.left, pair.header.seq) for pair in pairs]


def _again(pair: EncodedPair, right: bytes, seq: int) -> EncodedPair:
    """The pair with another right eye and number; its JPEG is forwarded untouched."""
    head = pair.header
    return encode_pair(
        pair.left, right, device=head.device, epoch=head.epoch, seq=seq, left_ns=head.left_ns, right_ns=head.right_ns
    )


def _shuffled(pairs: Pairs, seed: int) -> Pairs:
    """In another order, numbered anew, so that they are a stream like another."""
    order = np.random.default_rng([seed, 31]).permutation(len(pairs)).tolist()
    return [_again(pairs[index], pairs[index].right, seq) for seq, index in enumerate(order)]


PRESET = "preset"
_PLAIN = Augmentation(jitter=0.0, grey=0.0, blur=0.0)
RECIPE: Mapping[str, Row] = {
    "all the seed's numbers": Row(with_the_seeds_numbers),
    "EMA centre": _with(centring="ema"),
    "no repulsion": _with(repulsion=0.0),
    "the seed's repulsion": _with(repulsion=0.1, repelled_by="crops", repulsion_temperature=0.05),
    "repulsion 0.6": _with(repulsion=0.6),
    "softer teacher, tau_p 0.04": _with(teacher_temperature=0.04),
    "EMA rate 0.996": _with(teacher_momentum=0.996),
    "1024 prototypes": _with(prototypes=1024),
    "small crops, 0.4 to 0.8": _with(student_scale=(0.4, 0.8)),
    "no colour jitter": _with(student_augmentation=_PLAIN, teacher_augmentation=_PLAIN),
    "learning rate 2e-3": Row(lambda config: changed(config, {"schedule.learning_rate": 2e-3})),
    "InfoNCE between the eyes": Row(_with_infonce),
}
STREAM: Mapping[str, Row] = {
    "without dedupe": Row(dedupe=False),
    "left eye only": Row(sent=_left_only),
    "crops anywhere": Row(_stray),
    "shuffled time": Row(sent=_shuffled),
}
ROWS: Mapping[str, Row] = {PRESET: Row(), **RECIPE, **STREAM}
