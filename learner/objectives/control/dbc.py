"""Deep bisimulation for control: two pairs are as far apart as what will come of them (Zhang et al. 2021, DBC, 2006.10742).

With z the embedding of a pair, a what the robot did until the next one, r its reward, N(mu, sigma^2) the guess of the next
embedding, E the numbers of an embedding and j the other moves of the batch (section 4, equation 4, and algorithm 1):

    W_ij^2 = (|mu_i - mu_j|^2 + |sigma_i - sigma_j|^2) / E
    loss_i = weight mean_j (|z_i - z_j|_1 / E - |r_i - r_j| - discount W_ij)^2
             + mean over E of ((mu_i - z_i')^2 / (2 sigma_i^2) + ln sigma_i) + (R(mu_i) - r_i)^2

No gradient flows through mu and sigma of the first term, nor through z', the next embedding. Distances are means over the numbers
of an embedding, so that a reward weighs the same at any E. As in the authors' code, the first term has the actions and rewards
that were, and the guess is fitted by its likelihood; the paper asks policy and R instead, and fits by squares. The code takes the
first term number by number, with smooth distances, of each pair and one other, and R sees a draw of the next embedding. Where all
rewards are equal the first term pulls all together: take it as part of `ntxent+dbc`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from learner.bounds import Count, NotNegative, Share
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.objectives.control.bisimilarity import disagreement
from learner.objectives.control.moves import NEEDED, Future, embedded, moves
from learner.parts.network import Network
from learner.parts.windows import USABLE, spread
from learner.views.one_eye import WholeConfig


@dataclass(frozen=True, kw_only=True)
class DBCConfig(ObjectiveConfig):
    """The numbers of the authors' code."""

    name = "dbc"
    takes = (WholeConfig,)
    clip = 4
    signals = NEEDED
    presets = {"cpu": {"hidden": 256}}

    embedding: Count = 50
    """Numbers of an embedding."""
    hidden: Count = 512
    """Width of the hidden layers of the models."""
    discount: Share = 0.99
    """Weight of how far apart the next embeddings are; gamma in the paper."""
    weight: NotNegative = 0.5
    """Weight of the first term of the loss."""


class DBC(Objective[DBCConfig]):
    """One network with its models, and no other state."""

    meanings = {
        "bisimulation": Meaning("", "Mean squared difference of two distances: of embeddings, and of what follows."),
        "reward_error": Meaning("", "Mean error of the guessed reward, after symlog."),
        **USABLE,
    }

    def __init__(self, config: DBCConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, embedded(encoder.dim, config.embedding))
        self.future = Future(config.embedding, config.hidden)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the losses of each pair by its moves; it is ranked by all terms but the one with ln sigma."""
        features, move = self.student.encoder(self.views(batch, generator).large[:, 0]), moves(batch, *NEEDED)
        embeddings, (before, after) = self.student.project(features), move.rows.unbind(1)
        mean, deviation, reward = self.future(embeddings[before], move.action)
        apart = disagreement(move, embeddings, mean, deviation, self.config.discount)
        errors = {"bisimulation": apart, "reward_error": (reward - move.reward).abs()}
        known = self.config.weight * apart + errors["reward_error"].square()
        unlikely = ((mean - embeddings[after].detach()) / deviation).square() / 2 + deviation.log()
        losses, gauges = spread(known + unlikely.mean(-1), move.rows, features)
        means = {name: move.mean(values, features) for name, values in errors.items()}
        return Outcome(losses, features, spread(known, move.rows, features)[0].detach(), gauges=gauges | means)
