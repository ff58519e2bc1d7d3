"""The rows of the ablation bench. Each changes one thing: in the recipe, or in what the rig adds to the stream.

A row of the recipe is the preset with some settings changed, mostly to those of the original experiment. A row of the stream is
the preset on the same walk without one of the rig's ideas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.shared.recipes import changed, unchanged, with_original_numbers
from learner.config import LearnerConfig
from learner.objectives.contrastive import ContrastiveConfig
from learner.views.augment import Augmentation
from stream.codec import encode_pair
from stream.pair import EncodedPair

Pairs = Sequence[EncodedPair]


@dataclass(frozen=True)
class Variant:
    """One change of the preset. dedupe: whether the rig suppresses pairs seen before.

    sent: a function that changes the sent pairs.
    """

    settings: Callable[[LearnerConfig], LearnerConfig] = unchanged
    dedupe: bool = True
    sent: Callable[[Pairs, int], Pairs] = lambda pairs, _seed: pairs


def _with(**settings: Any) -> Variant:
    """Return a variant with other settings of the objective."""
    named = {f"objective.{name}": value for name, value in settings.items()}
    return Variant(lambda config: changed(config, named))


def _with_right(pair: EncodedPair, right: bytes, seq: int) -> EncodedPair:
    """Return the pair with another right image and another number. A JPEG is forwarded without decoding."""
    head = pair.header
    return encode_pair(
        pair.left, right, device=head.device, epoch=head.epoch, seq=seq, left_ns=head.left_ns, right_ns=head.right_ns
    )


def _shuffled(pairs: Pairs, seed: int) -> Pairs:
    """Return the pairs in another order and with new numbers, so that they form a normal stream."""
    order = np.random.default_rng([seed, 31]).permutation(len(pairs)).tolist()
    return [_with_right(pairs[index], pairs[index].right, seq) for seq, index in enumerate(order)]


PRESET = "preset"
_PLAIN = Augmentation(jitter=0.0, grey=0.0, blur=0.0)
RECIPE: Mapping[str, Variant] = {
    "all original numbers": Variant(with_original_numbers),
    "EMA centre": _with(centring="ema"),
    "no repulsion": _with(repulsion=0.0),
    "original repulsion": _with(repulsion=0.1, repelled_by="crops", repulsion_temperature=0.05),
    "repulsion 0.6": _with(repulsion=0.6),
    "softer teacher, tau_p 0.04": _with(teacher_temperature=0.04),
    "EMA rate 0.996": _with(teacher_momentum=0.996),
    "1024 prototypes": _with(prototypes=1024),
    "small crops, 0.4 to 0.8": _with(student_scale=(0.4, 0.8)),
    "no colour jitter": _with(student_augmentation=_PLAIN, teacher_augmentation=_PLAIN),
    "learning rate 2e-3": Variant(lambda config: changed(config, {"schedule.learning_rate": 2e-3})),
    "InfoNCE between the eyes": Variant(
        lambda config: changed(config, {"objective": ContrastiveConfig.for_preset("cpu")})
    ),
}
STREAM: Mapping[str, Variant] = {
    "without dedupe": Variant(dedupe=False),
    "left eye only": Variant(
        sent=lambda pairs, _seed: [_with_right(pair, pair.left, pair.header.seq) for pair in pairs]
    ),
    "crops anywhere": _with(where="anywhere"),
    "shuffled time": Variant(sent=_shuffled),
}
ROWS: Mapping[str, Variant] = {PRESET: Variant(), **RECIPE, **STREAM}
