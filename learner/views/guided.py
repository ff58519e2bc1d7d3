"""Views that attention places: a focused crop of the left eye, and small crops at the same place of the right eye.

They are those of the original experiment (section 2). An encoder sees the whole left image. The Gaussian under one random head of
its `[CLS]` attention places one crop of the left image, and N small crops **at the same location of the right image**.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from learner.bounds import Count, Positive, PositiveShare
from learner.errors import SettingsError
from learner.networks.encoder import Encoder
from learner.views.augment import STUDENT_AUGMENTATION, TEACHER_AUGMENTATION, Augmentation, augment
from learner.views.contract import Batch, Views, ViewsConfig
from learner.views.crops import crop, fit_gaussian, focus_window, shrink, to_rgb, windows_inside


@dataclass(frozen=True, slots=True)
class GuidedViews(Views):
    """The views and how they were chosen; `learner.views.crops` explains windows. One large view of the left eye, N small ones.

    attention: [B, heads, h, w]; head: int [B]; gauss: [B, 4] mean x, y and standard deviation x, y; window: [B, 4];
    crops: [B, N, 4].
    """

    attention: Tensor
    head: Tensor
    gauss: Tensor
    window: Tensor
    crops: Tensor

    def pictures(self) -> dict[str, Tensor]:
        """Return the views and their places."""
        names = ("attention", "head", "gauss", "window", "crops")
        places = {name: getattr(self, name) for name in names}
        return places | {"teacher_view": self.large[:, 0], "student_views": self.small}


@dataclass(frozen=True, kw_only=True)
class GuidedConfig(ViewsConfig):
    """The views of the original experiment; `docs/log.md` says what other values do."""

    name = "guided"
    presets = {
        "cpu": {
            "crops": 4,
            "attention_size": 48,
            "teacher_size": 32,
            "student_size": 24,
            "window_sigmas": 0.45,
            "smallest_window": 0.25,
            "student_scale": (0.6, 1.0),
            "teacher_augmentation": Augmentation(blur=0.0),
            "student_augmentation": Augmentation(blur=0.0, solarise=0.1),
        }
    }

    where: Literal["attention", "anywhere"] = "attention"
    """The place of the focused crop: at the attention, or anywhere. Its size follows the attention in both cases."""
    crops: Count = 8
    """N, the small crops of the right image."""
    attention_size: Count = 224
    """Side in pixels of the whole left image that the attention is read from."""
    teacher_size: Count = 224
    """Side in pixels of the focused crop."""
    student_size: Count = 96
    """Side in pixels of the small crops."""
    window_sigmas: Positive = 1.5
    """Half side of the focused crop, in standard deviations of the attention."""
    smallest_window: PositiveShare = 0.3
    """Smallest side of the focused crop, as a share of the image's shorter side."""
    student_scale: tuple[float, float] = (0.4, 0.8)
    """Side of a small crop, as a share of the focused crop's."""
    teacher_augmentation: Augmentation = TEACHER_AUGMENTATION
    student_augmentation: Augmentation = STUDENT_AUGMENTATION

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.student_scale
        if not 0 < low <= high <= 1:
            raise SettingsError(f"{self.label}: student_scale must be 0 < low <= high <= 1, got {self.student_scale}")

    @property
    def count(self) -> int:
        """See ViewsConfig."""
        return 1 + self.crops

    @property
    def probe_size(self) -> int:
        """The size of the focused crop, because a control set shows a scene at about the same scale."""
        return self.teacher_size

    def maker(self, encoder: Encoder) -> GuidedMaker:
        """See ViewsConfig."""
        return GuidedMaker(self, encoder)


class GuidedMaker:
    """Makes the views. encoder: its attention places them."""

    def __init__(self, config: GuidedConfig, encoder: Encoder) -> None:
        self.config = config
        self.encoder = encoder
        encoder.require("attention", f"{config.label}: views guided by attention", "--views multi")
        encoder.require_sizes(config, "attention_size", "teacher_size", "student_size")

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generator) -> GuidedViews:
        """Return the attention, the windows that follow from it, and the augmented views."""
        attention = self.encoder.attention(to_rgb(shrink(batch.left, self.config.attention_size)))
        with torch.autocast(attention.device.type, enabled=False):  # positions and pixels must not be rounded
            return self._views(batch, attention, generator)

    def gaze(self, attention: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Choose a head of maps [B, heads, h, w] for each pair; return it, int [B], and mean and deviation [B, 2] of its map."""
        count, device = len(attention), attention.device
        head = torch.randint(attention.shape[1], (count,), device=device, generator=generator)
        mean, std = fit_gaussian(attention[torch.arange(count, device=device), head])
        if self.config.where == "anywhere":
            mean = torch.rand(mean.shape, device=device, generator=generator)
        return head, mean, std

    def _views(self, batch: Batch, attention: Tensor, generator: Generator) -> GuidedViews:
        config, count = self.config, len(batch)
        head, mean, std = self.gaze(attention, generator)
        window = focus_window(mean, std, batch.aspect, sigmas=config.window_sigmas, smallest=config.smallest_window)
        crops = windows_inside(window, config.crops, scale=config.student_scale, generator=generator)
        focused = to_rgb(crop(batch.left, window[:, None], config.teacher_size))
        focused = augment(focused, config.teacher_augmentation, generator)
        small = augment(to_rgb(crop(batch.right, crops, config.student_size)), config.student_augmentation, generator)
        return GuidedViews(
            large=focused[:, None],
            small=small.view(count, config.crops, *small.shape[1:]),
            attention=attention,
            head=head,
            gauss=torch.cat([mean, std], -1),
            window=window,
            crops=crops,
        )
