"""Both eyes of each pair: whole, or one crop at the same place for all pairs of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from learner.networks.encoder import Encoder
from learner.views.augment import Augmentation, augment
from learner.views.contract import Batch, MakeViews, Views
from learner.views.crops import crop, shrink, to_rgb, windows_anywhere
from learner.views.one_eye import OneEyeConfig, WholeConfig

CHANCES = 2
"""Random numbers of a pair."""
COLOURS = Augmentation(flip=0.0, grey=0.0, blur=0.0)
"""The colours change and nothing moves."""


@dataclass(frozen=True, slots=True)
class ClipViews(Views):
    """The left and the right eye as two large views. chances: uniform in [0, 1), float [B, CHANCES], to draw by."""

    chances: Tensor


@dataclass(frozen=True, kw_only=True)
class EyesConfig(WholeConfig):
    """Two large views: both eyes, each squeezed onto a square, neither cut nor mirrored; each has colours of its own.

    (As in the authors' code of TCN, Sermanet et al. 2018.) No clip can be told by the place of its crop.
    """

    name = "eyes"

    augmentation: Augmentation = COLOURS

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 2

    @torch.no_grad()
    def _views(self, batch: Batch, generator: Generator) -> ClipViews:
        with torch.autocast(batch.left.device.type, enabled=False):
            rgb = torch.cat([to_rgb(shrink(eye, self.size)) for eye in (batch.left, batch.right)])
            return _with_chances(augment(rgb, self.augmentation, generator).chunk(2), generator)


@dataclass(frozen=True, kw_only=True)
class SteadyConfig(OneEyeConfig):
    """Two large views: the same crop of both eyes, at one place and augmented in one way for all pairs of a clip."""

    name = "steady"

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 2

    def maker(self, encoder: Encoder) -> MakeViews:
        """See ViewsConfig."""
        encoder.require_sizes(self, "size")
        return self._views

    @torch.no_grad()
    def _views(self, batch: Batch, generator: Generator) -> ClipViews:
        first = batch.starts()
        with torch.autocast(batch.left.device.type, enabled=False):
            windows = windows_anywhere(batch.aspect, 1, scale=self.scale, generator=generator)[first]
            rgb = torch.cat([to_rgb(crop(eye, windows, self.size)) for eye in (batch.left, batch.right)])
            eyes = augment(rgb, self.augmentation, generator, as_in=first.repeat(2)).chunk(2)
        return _with_chances(eyes, generator)


def _with_chances(eyes: tuple[Tensor, ...], generator: Generator) -> ClipViews:
    large = torch.stack(eyes, 1)
    return ClipViews(large, large[:, :0], torch.rand(len(large), CHANCES, device=large.device, generator=generator))
