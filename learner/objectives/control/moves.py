"""The moves of a robot from a pair to the next one of its clip, and small models of what comes of them.

The signals of a pair were measured since the pair before it, so they are those of the move that leads to it. An action is what
the rig calls so, a mean over the time between the two; that time is given beside it, because pairs do not come evenly: where the
action is a velocity, only both together tell how far the robot went. Numbers of any unit are brought near to 0 by

    symlog(x) = sign(x) ln(1 + |x|)                        (Hafner et al. 2023, DreamerV3, symlog predictions)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Tensor, nn

from learner.parts.heads import mlp
from learner.parts.windows import spread
from learner.views.contract import Batch
from stream.signals.signal import ACTION, MAX_WIDTH, REWARD

WIDTH = MAX_WIDTH + 1
"""Numbers that a model sees of a move: an action of any robot, filled up with zeros, and the seconds."""
NEEDED = (ACTION, REWARD)
LEAST, MOST = 1e-4, 10.0
"""Bounds of a standard deviation, as in the code of DBC."""


class Moves(NamedTuple):
    """Moves of which everything is known that was asked for.

    rows: int64 [W, 2], the pairs before and after; action: float32 [W, WIDTH] and reward: float32 [W], both by symlog, 0 where it
    was not asked for.
    """

    rows: Tensor
    action: Tensor
    reward: Tensor

    def mean(self, values: Tensor, features: Tensor) -> Tensor:
        """Return the mean of some values of the moves, [W], as a gauge: over the moves of all processes, once it is averaged."""
        return spread(values.detach().float(), self.rows, features.detach())[0].mean()


def moves(batch: Batch, *names: str) -> Moves:
    """Return the moves of a batch whose signals of these names are known."""
    rows = batch.windows(2)
    none = torch.full((len(batch), 1), torch.nan, device=rows.device)
    signals = {name: batch.signals.get(name, none).float() for name in names}
    for values in signals.values():
        rows = rows[values[rows[:, 1]].isfinite().all(1)]
    before, after = rows.unbind(1)
    zero = none.new_zeros(len(batch), 1)
    action, reward = (symlog(signals.get(name, zero))[after] for name in NEEDED)
    times_s = zero[:, 0] if batch.times_s is None else batch.times_s
    seconds = symlog((times_s[after] - times_s[before]).float())[:, None]
    return Moves(rows, torch.cat([F.pad(action, (0, MAX_WIDTH - action.shape[1])), seconds], 1), reward.mean(1))


def symlog(values: Tensor) -> Tensor:
    """Return the logarithm of the size of each number, with its sign; near 0 the number itself."""
    return values.sign() * values.abs().log1p()


def length(rows: Tensor) -> Tensor:
    """Return the Euclidean length of each row [W, E], [W]; the gradient at 0 is 0."""
    return (rows.square().sum(-1) + 1e-12).sqrt()


class Model(nn.Module):
    """Guesses `out` numbers from an embedding and a move, by two linear layers with a norm between them."""

    def __init__(self, embedding: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = mlp(embedding + WIDTH, hidden, out)

    def forward(self, embeddings: Tensor, action: Tensor) -> Tensor:
        """Map embeddings, float [W, embedding], and actions [W, WIDTH] to [W, out]."""
        with torch.autocast(embeddings.device.type, enabled=False):
            guesses: Tensor = self.layers(torch.cat([embeddings, action], -1))
        return guesses


class Future(nn.Module):
    """Guesses the next embedding as a normal distribution without correlations, and the reward from its mean."""

    def __init__(self, embedding: int, hidden: int) -> None:
        super().__init__()
        self.model = Model(embedding, hidden, 2 * embedding)
        self.reward = mlp(embedding, hidden, 1)

    def forward(self, embeddings: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map embeddings [W, E] and actions [W, WIDTH] to means and standard deviations [W, E], and rewards [W]."""
        mean, deviation = self.model(embeddings, action).chunk(2, -1)
        with torch.autocast(mean.device.type, enabled=False):
            return mean, LEAST + (MOST - LEAST) * deviation.sigmoid(), self.reward(mean)[:, 0]


def embedded(dim: int, embedding: int) -> nn.Module:
    """Return the layer that makes an embedding of features: its numbers have mean 0 and variance 1, as in the code of DBC."""
    return nn.Sequential(nn.Linear(dim, embedding), nn.LayerNorm(embedding))
