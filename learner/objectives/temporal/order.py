"""What objectives share that ask for the order of pictures: a judge of several features, and a draw of windows with motion."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from learner.parts.heads import Classifier, mlp


class Judge(nn.Module):
    """Guesses an answer from the features of several pictures in an order; a hidden layer lets it compare them."""

    def __init__(self, dim: int, hidden: int, *, pictures: int, answers: int) -> None:
        super().__init__()
        self.joined = nn.Sequential(*mlp(pictures * dim, hidden, hidden)[:3])
        self.classifier = Classifier(hidden, answers)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and whether the guess is right, float and bool [N].

        features: float [N, pictures, dim]; labels: int64 [N].
        """
        with torch.autocast(features.device.type, enabled=False):
            found: tuple[Tensor, Tensor] = self.classifier(self.joined(features.float().flatten(1)), labels)
        return found


def motion_of(pictures: Tensor, rows: Tensor) -> Tensor:
    """Return how much changes from picture to picture of each window, [W]: the mean difference of pictures of 16 x 16 pixels.

    pictures: float [B, 3, S, S]; rows: int64 [W, k], k of at least 2.
    """
    small = F.adaptive_avg_pool2d(pictures, 16)
    return (small[rows[:, 1:]] - small[rows[:, :-1]]).abs().mean((1, 2, 3, 4))


def lively(clips: Tensor, motion: Tensor, chances: Tensor) -> Tensor:
    """Draw a window of each clip in proportion to its motion: which ones, bool [W].

    clips: the clip of each window, int64 [W]; motion: [W] >= 0; chances: uniform in [0, 1), [W]. The largest logarithm with
    Gumbel noise is such a draw. A clip with a window whose motion is not finite has none.
    """
    motion = motion.clamp_min(torch.finfo(motion.dtype).tiny)  # a clip without any motion has one window too
    owners = torch.searchsorted(clips.sort().values, clips)
    scores = motion.log() - (-chances.log()).log()
    best = torch.full_like(scores, -torch.inf).scatter_reduce(0, owners, scores, "amax")
    return scores == best[owners]
