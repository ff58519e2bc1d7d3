"""The seed's objective (seed 000, section 2): coherence of the present with the past, guided by the past's attention.

The past network (teacher) sees the whole left image; the Gaussian under one random head of its `[CLS]` attention places one
focused crop of the left image for itself and N small crops **at the same location of the right image** for the main network
(student). With P_p the teacher's centred and sharpened distribution over K prototypes, P_m the student's, z the projections:

    loss = sum_i H(P_p(X_G), P_m(X_i)) + repulsion * sum_i log sum_{j != i} exp(cos(z_i, z_j) / repulsion_temperature)

per pair, before any mean. The priority is KL(P_p || P_m), the part of the first term that the student can still lower.
Shapes: B pairs, N crops, K prototypes, D width of a projection.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from torch import Generator, Tensor, nn

from learner.encoder import Encoder, EncoderConfig
from learner.errors import SettingsError
from learner.objective import Batch, Look, Outcome
from learner.views import (
    STUDENT_AUGMENTATION,
    TEACHER_AUGMENTATION,
    Augmentation,
    augment,
    crop,
    fit_gaussian,
    focus_window,
    to_rgb,
    windows_inside,
)


@dataclass(frozen=True, kw_only=True)
class BabyAgentConfig:
    """The seed's numbers where it gives them; `docs/log.md` says what other values do."""

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
    prototypes: int = 4096
    """K, the number of prototypes."""
    hidden: int = 2048
    """Width of the projection head's hidden layers."""
    bottleneck: int = 256
    """Width of a projection."""
    student_temperature: float = 0.05
    """tau_m, of the main network's softmax."""
    teacher_temperature: float = 0.02
    """tau_p, of the past network's softmax: lower sharpens."""
    centring: Literal["ema", "sinkhorn"] = "ema"
    """How one prototype is kept from taking all: an EMA of the mean logits (the seed's), or Sinkhorn-Knopp over the batch."""
    centre_momentum: float = 0.9
    """EMA rate of the centre."""
    repulsion: float = 0.1
    """lambda, the weight of the term that pushes the crops of a pair apart."""
    repulsion_temperature: float = 0.05
    """tau of that term."""
    teacher_momentum: float = 0.996
    """alpha: teacher <- alpha * teacher + (1 - alpha) * student after each step."""
    teacher_augmentation: Augmentation = field(default_factory=lambda: TEACHER_AUGMENTATION)
    student_augmentation: Augmentation = field(default_factory=lambda: STUDENT_AUGMENTATION)

    def __post_init__(self) -> None:
        low, high = self.student_scale
        temperatures = (self.student_temperature, self.teacher_temperature, self.repulsion_temperature)
        sides = (self.attention_size, self.teacher_size, self.student_size, self.hidden, self.bottleneck)
        rules = {
            "crops must be at least 1 (2 with repulsion)": self.crops >= (2 if self.repulsion else 1),
            "repulsion must be at least 0": self.repulsion >= 0,
            "temperatures must be above 0": all(temperature > 0 for temperature in temperatures),
            "sizes and widths must be at least 1": min(sides) >= 1,
            "centring must be ema or sinkhorn": self.centring in ("ema", "sinkhorn"),
            "student_scale must be 0 < low <= high <= 1": 0 < low <= high <= 1,
            "teacher_momentum and centre_momentum must be in [0, 1)": 0 <= self.teacher_momentum < 1
            and 0 <= self.centre_momentum < 1,
            "prototypes must be at least 2": self.prototypes >= 2,
            "window_sigmas must be above 0": self.window_sigmas > 0,
            "smallest_window must be in (0, 1]": 0 < self.smallest_window <= 1,
        }
        for rule, holds in rules.items():
            if not holds:
                raise SettingsError(f"objective: {rule}")


class ProjectionHead(nn.Module):
    """Three layers to a unit vector (the projection), then cosines to K unit prototypes (Caron et al. 2021, appendix C)."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.prototypes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, dim] to projection [B, bottleneck] and logits [B, K], cosines in [-1, 1]."""
        projection = F.normalize(self.mlp(features), dim=-1)
        return projection, projection @ F.normalize(self.prototypes, dim=-1).T


class Network(nn.Module):
    """A backbone and a projection head: g_m or g_p of the seed."""

    def __init__(self, encoder: EncoderConfig, config: BabyAgentConfig) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        self.head = ProjectionHead(self.encoder.dim, config.hidden, config.bottleneck, config.prototypes)

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """RGB [B, 3, S, S] to projection [B, D] and logits [B, K]."""
        features = self.encoder(rgb)
        # The head stays in float32: at a temperature of 0.02 a rounded cosine is a wrong distribution.
        with torch.autocast(rgb.device.type, enabled=False):
            projection, logits = self.head(features.float())
        return projection, logits


class BabyAgent(nn.Module):
    """The objective with its student, its EMA teacher and its centre."""

    centre: Tensor

    def __init__(self, encoder: EncoderConfig, config: BabyAgentConfig) -> None:
        super().__init__()
        self.config = config
        self.student = Network(encoder, config)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self._seen_mean = self.centre.clone()
        patch = self.student.encoder.patch_size
        for name in ("attention_size", "teacher_size", "student_size"):
            if getattr(config, name) % patch:
                raise SettingsError(
                    f"objective: {name} {getattr(config, name)} must be a multiple of the patch size {patch}"
                )

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Losses and KL of each pair; see the module's formula."""
        view = self.look(batch, generator)
        count, crops = view.student_views.shape[:2]
        with torch.no_grad():
            teacher_logits = self.teacher(view.teacher_view)[1]
            target = self.target(teacher_logits)
            self._seen_mean = teacher_logits.mean(0)
        projection, logits = self.student(view.student_views.flatten(0, 1))
        log_student = F.log_softmax(logits / self.config.student_temperature, -1).view(count, crops, -1)
        cross_entropy = -(target[:, None] * log_student).sum(-1)
        entropy = torch.special.entr(target).sum(-1)
        cosines = pairwise_cosines(projection.view(count, crops, -1))
        losses = cross_entropy.sum(1)
        if self.config.repulsion:
            losses = losses + self.config.repulsion * repulsion(cosines, self.config.repulsion_temperature)
        kl = (cross_entropy.mean(1) - entropy).detach().clamp_min(0)  # rounding can leave it a hair below
        return Outcome(losses, kl, self.gauges(target, entropy, kl, cosines.detach()))

    def target(self, logits: Tensor) -> Tensor:
        """P_p [B, K] from the teacher's logits: centred and sharpened, each row sums to 1."""
        if self.config.centring == "sinkhorn":
            return sinkhorn(logits / self.config.teacher_temperature)
        return F.softmax((logits - self.centre) / self.config.teacher_temperature, -1)

    @torch.no_grad()
    def after_step(self) -> None:
        """theta_p <- alpha theta_p + (1 - alpha) theta_m; c <- m c + (1 - m) mean of the teacher's logits.

        The centre waits for the step too: a batch whose step is refused leaves no trace.
        """
        self.centre.lerp_(self._seen_mean, 1 - self.config.centre_momentum)
        past: list[Tensor] = list(self.teacher.parameters())
        present: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(past, present, 1 - self.config.teacher_momentum)

    def trained(self) -> Iterable[nn.Parameter]:
        """The student; the teacher follows it."""
        return self.student.parameters()

    def encoders(self) -> dict[str, Encoder]:
        """Student and teacher."""
        return {"student": self.student.encoder, "teacher": self.teacher.encoder}

    @torch.no_grad()
    def look(self, batch: Batch, generator: Generator) -> Look:
        """Where the teacher looks, the windows that follow from it, and the augmented views."""
        left, side = to_rgb(batch.left), (self.config.attention_size, self.config.attention_size)
        attention = self.teacher.encoder.attention(F.interpolate(left, side, mode="bilinear", antialias=True))
        # In float32 whatever the backbone computes in: a position in bfloat16 moves a window by pixels.
        with torch.autocast(left.device.type, enabled=False):
            return self._views(left, batch, attention.float(), generator)

    def _views(self, left: Tensor, batch: Batch, attention: Tensor, generator: Generator) -> Look:
        config, device, right = self.config, left.device, to_rgb(batch.right)
        head = torch.randint(attention.shape[1], (len(batch),), device=device, generator=generator)
        mean, std = fit_gaussian(attention[torch.arange(len(batch), device=device), head])
        window = focus_window(mean, std, batch.aspect, sigmas=config.window_sigmas, smallest=config.smallest_window)
        crops = windows_inside(window, config.crops, scale=config.student_scale, generator=generator)
        focused = augment(crop(left, window[:, None], config.teacher_size), config.teacher_augmentation, generator)
        small = augment(crop(right, crops, config.student_size), config.student_augmentation, generator)
        return Look(
            attention=attention,
            head=head,
            gauss=torch.cat([mean, std], -1),
            window=window,
            crops=crops,
            teacher_view=focused,
            student_views=small.view(len(batch), config.crops, *small.shape[1:]),
        )

    def gauges(self, target: Tensor, entropy: Tensor, kl: Tensor, cosines: Tensor) -> dict[str, Tensor]:
        """What tells a learning teacher from a collapsing one (evidence: entropy and prototypes in use, not the loss)."""
        used = torch.special.entr(target.mean(0)).sum().exp()
        count = cosines.shape[-1]
        off_diagonal = (cosines.sum((-2, -1)) - count) / max(count * (count - 1), 1)
        return {
            "kl": kl.mean(),
            "teacher_entropy": entropy.mean(),
            "prototypes_in_use": used,
            "crop_cosine": off_diagonal.mean(),
        }


def pairwise_cosines(projections: Tensor) -> Tensor:
    """Cosines between the unit projections of a pair's crops: [B, N, D] to [B, N, N]."""
    with torch.autocast(projections.device.type, enabled=False):  # they are divided by a small temperature next
        return projections @ projections.transpose(-2, -1)


def repulsion(cosines: Tensor, temperature: float) -> Tensor:
    """sum_i log sum_{j != i} exp(cos(z_i, z_j) / temperature): [B, N, N] to [B]."""
    itself = torch.eye(cosines.shape[-1], dtype=torch.bool, device=cosines.device)
    return (cosines / temperature).masked_fill(itself, -torch.inf).logsumexp(-1).sum(-1)


def sinkhorn(scores: Tensor, rounds: int = 3) -> Tensor:
    """Spread a batch over the prototypes evenly (Caron et al. 2020, SwAV, section 3.1): [B, K] scores to rows that sum to 1.

    Alternately normalises prototypes to the same mass and pairs to the same mass, in log space so that nothing overflows.
    """
    for _ in range(rounds):
        scores = scores - scores.logsumexp(0, keepdim=True)
        scores = scores - scores.logsumexp(1, keepdim=True)
    return scores.exp()
