"""The second teacher: a frozen copy of the start, from which the student's view of whole images should not move far.

    features: 1 - cosine of the pooled features (`[CLS]`) of student and start
    patches:  mean of (X X^T - S S^T)^2 over the pairs of patches of an image, with the tokens X of the student and S of the start
              normalised

The latter is the Gram anchoring of DINOv3 (Siméoni et al. 2025, arXiv:2508.10104, section 4.2), where S is an earlier teacher.
Both are measured on the left images of some pairs of the batch, whole, without any augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor

from learner.adapt.config import AdaptConfig
from learner.distributed import collectives
from learner.networks.encoder import Encoder
from learner.parts.meaning import Meaning
from learner.views.contract import Batch
from learner.views.crops import shrink, to_rgb

ANCHOR_MEANINGS: Mapping[str, Meaning] = {
    "start_cosine": Meaning(
        "", "Mean cosine between an image's features and those of the start, 1 where they are alike."
    ),
    "start_gram": Meaning("", "Mean squared change since the start of the cosines between an image's patches."),
}
"""The meaning of the gauges of a second teacher."""


def anchor(
    student: Encoder, start: Encoder, batch: Batch, config: AdaptConfig, side: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted distance of the student from its start, a scalar with gradient, and the gauges.

    side: of the images in pixels. In several processes each measures its share of the pairs, and the mean is that of all.
    """
    count = -(-config.anchor_pairs // collectives.count())
    rows = torch.arange(count, device=batch.left.device) * len(batch) // count  # fresh ones and those of the reservoir
    images = to_rgb(shrink(batch.left[rows], side))
    with torch.no_grad():
        features, patches = (found.float() for found in start.tokens(images))
    own_features, own_patches = (found.float() for found in student.tokens(images))
    cosine = F.cosine_similarity(own_features, features, dim=-1).mean()
    gram = F.mse_loss(_gram(own_patches), _gram(patches))
    term = collectives.shared_mean(config.anchor_features * (1 - cosine) + config.anchor_patches * gram)
    return term, {"start_cosine": cosine.detach(), "start_gram": gram.detach()}


def _gram(tokens: Tensor) -> Tensor:
    """Return the cosines between the tokens [B, T, D] of each image: [B, T, T]."""
    normal = F.normalize(tokens, dim=-1)
    return normal @ normal.mT
