"""The views that an objective takes by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from learner.networks.encoder import Encoder
from learner.views.contract import ViewsConfig


@dataclass(frozen=True, kw_only=True)
class DefaultViews(ViewsConfig):
    """No choice of views: the objective's own, or the first kind that it can take. `LearnerConfig.crops` says which."""

    name = "default"

    def maker(self, encoder: Encoder) -> NoReturn:
        """They stand for others and make none."""
        raise NotImplementedError

    @property
    def count(self) -> NoReturn:
        """They stand for others."""
        raise NotImplementedError

    @property
    def probe_size(self) -> NoReturn:
        """They stand for others."""
        raise NotImplementedError
