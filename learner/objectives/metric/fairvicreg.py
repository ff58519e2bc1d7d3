"""Subject-aware VICReg: no subject has a place of its own in the space of projections (after FairSSL, Cheong et al. 2026).

A subject is who wears the rig, if it is named, or else the device. With z_v the projections of view v, and D columns:

    loss_i = invariance * mean over pairs of views of |z_iv - z_iw|^2 / D
    shared = variance * mean_s,v hinge(z_v of s) + covariance * 2 * mean_v squared_covariances(z_v) / D
           + subjects * mean over pairs of subjects of |mean(z of s) - mean(z of t)|^2 / D

So views of different kinds agree (the paper's modalities; here the eyes), each subject varies within itself, and subjects agree.
Only the paper's abstract and its earlier form (2508.16748) were at hand: the terms are theirs, their weights are not. A subject
with one pair has no variance and is left out there. With one subject this is `learner.objectives.joint.vicreg`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from learner.bounds import NotNegative
from learner.distributed import collectives
from learner.objectives.contract import Batch, Meaning, Objective, Outcome
from learner.objectives.joint.vicreg import VICReg, VICRegConfig
from learner.parts.losses import apart_in_pairs, covariance, variance_hinge


@dataclass(frozen=True, kw_only=True)
class FairVICRegConfig(VICRegConfig):
    """The weights of VICReg, and one for the subjects."""

    name = "fairvicreg"

    subjects: NotNegative = 25.0
    """Weight of the distance between the means of two subjects."""


class FairVICReg(VICReg, Objective[FairVICRegConfig]):
    """One network and no other state."""

    meanings = {
        **VICReg.meanings,
        "subjects": Meaning("", "Mean squared distance between the means of two subjects, 0 where there is one."),
    }

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the invariance of each pair, and the terms of the batch as the shared one."""
        features = self.views(batch, generator).through(self.student.encoder)
        projections, weights = self.student.project(features), self.config
        everyones = collectives.everyone(projections)
        who = collectives.all_rows(torch.zeros_like(batch.numbers()) if batch.subjects is None else batch.subjects)
        groups = [everyones[who == one] for one in sorted(set(who.tolist()))]
        hinges = [variance_hinge(rows) for some in groups if len(some) > 1 for rows in some.unbind(1)]
        variance = torch.stack(hinges or [projections.new_zeros(())]).mean()
        repeated = 2 * torch.stack([covariance(rows) for rows in everyones.unbind(1)]).mean()
        apart = apart_in_pairs(torch.stack([some.mean((0, 1)) for some in groups])[None])[0]
        terms = {"variance": variance, "covariance": repeated, "subjects": apart}
        shared = sum((getattr(weights, name) * term for name, term in terms.items()), projections.new_zeros(()))
        gauges = {name: term.detach() for name, term in terms.items()}
        return Outcome(weights.invariance * apart_in_pairs(projections), features[:, 0], shared=shared, gauges=gauges)
