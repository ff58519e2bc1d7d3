"""The objectives and the kinds of views that a run may have, by their names. One line makes another one known."""

from __future__ import annotations

from typing import Any

from learner.objectives.babyagent import BabyAgent
from learner.objectives.contract import Objective
from learner.objectives.contrastive import Contrastive
from learner.objectives.joint.byol import BYOL
from learner.objectives.joint.deepcluster import DeepCluster
from learner.objectives.joint.moco import MoCo
from learner.objectives.joint.simclr import SimCLR
from learner.objectives.joint.vicreg import VICReg
from learner.objectives.masked.mae import MAE
from learner.views.contract import ViewsConfig
from learner.views.default import DefaultViews
from learner.views.masks import MasksConfig
from learner.views.several import SEVERAL

_OBJECTIVES = (BabyAgent, Contrastive, SimCLR, MoCo, BYOL, VICReg, MAE, DeepCluster)
OBJECTIVES: dict[str, type[Objective[Any]]] = {kind.settings.name: kind for kind in _OBJECTIVES}
_VIEWS: tuple[type[ViewsConfig], ...] = (DefaultViews, *SEVERAL, MasksConfig)
VIEWS: dict[str, type[ViewsConfig]] = {kind.name: kind for kind in _VIEWS}
