"""The kinds of views of which a pair has several: what an objective can take that compares views."""

from __future__ import annotations

from learner.views.anywhere import MultiConfig, TwoConfig
from learner.views.contract import ViewsConfig
from learner.views.guided import GuidedConfig
from learner.views.lab import LabConfig
from learner.views.noise import NoiseConfig
from learner.views.tiles import TilesConfig

SEVERAL: tuple[type[ViewsConfig], ...] = (TwoConfig, MultiConfig, GuidedConfig, TilesConfig, NoiseConfig, LabConfig)
MULTI_FIRST: tuple[type[ViewsConfig], ...] = (MultiConfig, *(kind for kind in SEVERAL if kind is not MultiConfig))
"""The same kinds, for an objective that takes multi-crop by itself."""
GUIDED_FIRST: tuple[type[ViewsConfig], ...] = (GuidedConfig, *(kind for kind in SEVERAL if kind is not GuidedConfig))
"""The same kinds, for an objective whose teacher says where to look."""
