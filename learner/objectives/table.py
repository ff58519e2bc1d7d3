"""The objectives and the kinds of views that a run may have, by their names. One line makes another one known."""

from __future__ import annotations

from typing import Any

from learner.objectives.babyagent import BabyAgent
from learner.objectives.contract import Objective
from learner.objectives.contrastive import Contrastive
from learner.views.contract import ViewsConfig
from learner.views.default import DefaultViews
from learner.views.guided import GuidedConfig

OBJECTIVES: dict[str, type[Objective[Any]]] = {kind.settings.name: kind for kind in (BabyAgent, Contrastive)}
VIEWS: dict[str, type[ViewsConfig]] = {kind.name: kind for kind in (GuidedConfig, DefaultViews)}
