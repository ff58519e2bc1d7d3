"""DeepMDP: an embedding from which the reward and the next embedding can be told (Gelada et al. 2019, 1906.02736).

With z the embedding of a pair, a what the robot did until the next one and r its reward (the local losses, for a model without
noise: the Wasserstein distance of two points is their distance):

    loss = reward * |R(z_t, a_t) - r_t| + | P(z_t, a_t) - z_{t+1} |

No gradient flows through z_{t+1}, as in the baseline in the code of DBC, which squares both errors. The paper also holds down how
steep R and P are, and learns beside a policy; both are not here. Without a reward that varies nothing keeps pictures apart: it is
meant as the second one of a sum, as `ntxent+deepmdp`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from learner.bounds import Count, NotNegative
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.objectives.control.moves import NEEDED, Model, embedded, length, moves
from learner.parts.network import Network
from learner.parts.windows import USABLE, spread
from learner.views.one_eye import WholeConfig


@dataclass(frozen=True, kw_only=True)
class DeepMDPConfig(ObjectiveConfig):
    """The widths of the baseline in the code of DBC."""

    name = "deepmdp"
    takes = (WholeConfig,)
    clip = 4
    signals = NEEDED
    presets = {"cpu": {"hidden": 256}}

    embedding: Count = 50
    """Numbers of an embedding."""
    hidden: Count = 512
    """Width of the hidden layers of R and P."""
    reward: NotNegative = 1.0
    """Weight of the error of the reward; the error of the next embedding has the weight 1."""


class DeepMDP(Objective[DeepMDPConfig]):
    """One network with its models, and no other state."""

    meanings = {
        "reward_error": Meaning("", "Mean error of the guessed reward, after symlog."),
        "next_error": Meaning("", "Mean distance between the guess and the next embedding."),
        "moved": Meaning(
            "", "Mean distance between an embedding and the next one: the error of a guess that nothing changes."
        ),
        **USABLE,
    }

    def __init__(self, config: DeepMDPConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student = Network(encoder, embedded(encoder.dim, config.embedding))
        self.transition = Model(config.embedding, config.hidden, config.embedding)
        self.reward = Model(config.embedding, config.hidden, 1)
        self.views = kit.views(encoder)

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the losses of each pair by the moves that it is part of."""
        features, move = self.student.encoder(self.views(batch, generator).large[:, 0]), moves(batch, *NEEDED)
        embeddings = self.student.project(features)
        present, future = embeddings[move.rows[:, 0]], embeddings[move.rows[:, 1]].detach()
        errors = {
            "reward_error": (self.reward(present, move.action)[:, 0] - move.reward).abs(),
            "next_error": length(self.transition(present, move.action) - future),
            "moved": length(present - future),
        }
        terms = self.config.reward * errors["reward_error"] + errors["next_error"]
        losses, gauges = spread(terms, move.rows, features)
        means = {name: move.mean(values, features) for name, values in errors.items()}
        return Outcome(losses, features, gauges=gauges | means)
