"""The common parts of guided objectives: student, EMA teacher, and views of a pair that the teacher's attention places.

The views are those of the original experiment (section 2). The teacher sees the whole left image. The Gaussian under one random
head of its `[CLS]` attention places one focused crop of the left image for the teacher, and N small crops **at the same
location of the right image** for the student. Each objective defines in what student and teacher have to agree.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from learner.errors import SettingsError
from learner.networks.encoder import Encoder
from learner.objectives.contract import Batch, Look, Objective, ObjectiveConfig
from learner.views.augment import STUDENT_AUGMENTATION, TEACHER_AUGMENTATION, Augmentation, augment
from learner.views.crops import crop, fit_gaussian, focus_window, shrink, to_rgb, windows_inside


@dataclass(frozen=True, kw_only=True)
class GuidedConfig(ObjectiveConfig):
    """The views and the teacher of the original experiment; `docs/log.md` says what other values do."""

    crops: int = 8
    """N, the student's crops of the right image."""
    attention_size: int = 224
    """Side in pixels of the whole left image that the teacher's attention is read from."""
    teacher_size: int = 224
    """Side in pixels of the teacher's focused crop."""
    student_size: int = 96
    """Side in pixels of the student's crops."""
    window_sigmas: float = 1.5
    """Half side of the focused crop, in standard deviations of the attention."""
    smallest_window: float = 0.3
    """Smallest side of the focused crop, as a share of the image's shorter side."""
    student_scale: tuple[float, float] = (0.4, 0.8)
    """Side of a student's crop, as a share of the focused crop's."""
    teacher_momentum: float = 0.996
    """alpha: teacher <- alpha * teacher + (1 - alpha) * student after each step."""
    teacher_augmentation: Augmentation = TEACHER_AUGMENTATION
    student_augmentation: Augmentation = STUDENT_AUGMENTATION

    def __post_init__(self) -> None:
        low, high = self.student_scale
        require(
            {
                "crops must be at least 1": self.crops >= 1,
                "sizes must be at least 1": min(self.attention_size, self.teacher_size, self.student_size) >= 1,
                "student_scale must be 0 < low <= high <= 1": 0 < low <= high <= 1,
                "teacher_momentum must be in [0, 1)": 0 <= self.teacher_momentum < 1,
                "window_sigmas must be above 0": self.window_sigmas > 0,
                "smallest_window must be in (0, 1]": 0 < self.smallest_window <= 1,
            }
        )

    @property
    def probe_size(self) -> int:
        """The size of the teacher's crop, because a control set shows a scene at about the same scale."""
        return self.teacher_size


def require(rules: Mapping[str, bool]) -> None:
    """Raise SettingsError with the first rule that does not hold."""
    for rule, holds in rules.items():
        if not holds:
            raise SettingsError(f"objective: {rule}")


class Network(nn.Module):
    """An encoder with a projector on its features: g_m or g_p of the original experiment."""

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector: Any = projector  # each objective has its own

    def forward(self, rgb: Tensor) -> Any:
        """Map RGB, float [B, 3, S, S] in [0, 1], to the output of the projector."""
        features = self.encoder(rgb)
        # The projector stays in float32: at a temperature of 0.02 a rounded cosine gives a wrong distribution.
        with torch.autocast(rgb.device.type, enabled=False):
            return self.projector(features.float())


class Guided(Objective):
    """Student, EMA teacher and their views; a subclass defines the losses."""

    config: GuidedConfig

    def __init__(self, student: Network, config: GuidedConfig) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        patch = student.encoder.patch_size
        for name in ("attention_size", "teacher_size", "student_size"):
            if getattr(config, name) % patch:
                raise SettingsError(
                    f"objective: {name} {getattr(config, name)} must be a multiple of the patch size {patch}"
                )

    @torch.no_grad()
    def after_step(self) -> None:
        """theta_p <- alpha theta_p + (1 - alpha) theta_m."""
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1 - self.config.teacher_momentum)

    def trained(self) -> Iterable[nn.Parameter]:
        """Return the weights of the student; the teacher follows it."""
        return self.student.parameters()

    def encoders(self) -> dict[str, Encoder]:
        """Return student and teacher."""
        return {"student": self.student.encoder, "teacher": self.teacher.encoder}

    @torch.no_grad()
    def look(self, batch: Batch, generator: Generator) -> Look:
        """Return the attention of the teacher, the windows that follow from it, and the augmented views."""
        attention = self.teacher.encoder.attention(to_rgb(shrink(batch.left, self.config.attention_size)))
        with torch.autocast(attention.device.type, enabled=False):  # positions and pixels must not be rounded
            return self._views(batch, attention, generator)

    def gaze(self, attention: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Choose a head of maps [B, heads, h, w] for each pair; return it, int [B], and mean and deviation [B, 2] of its map."""
        count, device = len(attention), attention.device
        head = torch.randint(attention.shape[1], (count,), device=device, generator=generator)
        mean, std = fit_gaussian(attention[torch.arange(count, device=device), head])
        return head, mean, std

    def _views(self, batch: Batch, attention: Tensor, generator: Generator) -> Look:
        config, count = self.config, len(batch)
        head, mean, std = self.gaze(attention, generator)
        window = focus_window(mean, std, batch.aspect, sigmas=config.window_sigmas, smallest=config.smallest_window)
        crops = windows_inside(window, config.crops, scale=config.student_scale, generator=generator)
        focused = to_rgb(crop(batch.left, window[:, None], config.teacher_size))
        focused = augment(focused, config.teacher_augmentation, generator)
        small = augment(to_rgb(crop(batch.right, crops, config.student_size)), config.student_augmentation, generator)
        return Look(
            attention=attention,
            head=head,
            gauss=torch.cat([mean, std], -1),
            window=window,
            crops=crops,
            teacher_view=focused,
            student_views=small.view(count, config.crops, *small.shape[1:]),
        )
