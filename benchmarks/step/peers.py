"""Peers that train the same backbone on the same crops: the reference DINO loop, and lightly's modules as in its example.

Written from the paper (Caron et al. 2021, arXiv:2104.14294, section 3 and appendices) and the manuals. Backbone, batch,
precision, number and size of the crops, widths of the head and probabilities of the augmentation are ours; everything else is
theirs. As in ours the teacher sees one crop and the student the N others, so no view is compared with itself. lightly's loss
assumes that the first views of both sides are the same and leaves that pair out: an empty view comes first on the student's side,
so that every crop counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision import transforms

from learner.config import LearnerConfig
from learner.networks.encoder import EncoderConfig, create_backbone
from learner.objectives.babyagent import BabyAgentConfig
from learner.views.augment import Augmentation

GLOBAL_SCALE, LOCAL_SCALE = (0.4, 1.0), (0.05, 0.4)
"""Areas of the crops, as published."""
CENTRE_MOMENTUM = 0.9

Scale = tuple[float, float]
Transform = Callable[[Image.Image], Tensor]
"""Maps one image to one normalised view [3, S, S]."""


class Peer(ABC):
    """The parts that both peers have: networks, crops, AdamW with two groups. `step` is one training step."""

    def __init__(self, config: LearnerConfig, device: torch.device) -> None:
        assert isinstance(config.objective, BabyAgentConfig)
        self.objective = config.objective
        self.device = device
        self.low = config.precision == "bfloat16"
        self.student = self._network(config.encoder).to(device)
        self.teacher = self._network(config.encoder).to(device).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        matrices, others = ([one for one in self.trained if (one.ndim > 1) is kind] for kind in (True, False))
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        schedule = config.schedule
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        self.clip = schedule.clip_grad_norm
        backbone: Any = self.student[0]
        norm = backbone.pretrained_cfg
        sizes = config.objective
        self._focused = self._transform(GLOBAL_SCALE, sizes.teacher_size, sizes.teacher_augmentation, norm)
        self._small = self._transform(LOCAL_SCALE, sizes.student_size, sizes.student_augmentation, norm)

    def views(self, left: Sequence[Image.Image], right: Sequence[Image.Image]) -> list[Tensor]:
        """Return one view of each left image, [B, 3, T, T], then N times one of each right image, [B, 3, S, S], on the device."""
        views = [[self._focused(image) for image in left]]
        views += [[self._small(image) for image in right] for _ in range(self.objective.crops)]
        return [torch.stack(view).to(self.device, non_blocking=True) for view in views]

    def step(self, views: Sequence[Tensor]) -> None:
        """Train on the views of one batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low):
            loss = self.loss(views)
        if not torch.isfinite(loss).item():
            raise FloatingPointError("a peer's loss is not finite")
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._clip()
        self.optimizer.step()
        self._move_teacher()

    def _network(self, encoder: EncoderConfig) -> nn.Sequential:
        """Return a backbone with its head."""
        backbone = create_backbone(encoder)
        return nn.Sequential(backbone, self._head(backbone.num_features))

    @abstractmethod
    def _head(self, width: int) -> nn.Module:
        """Return the projection head for features of this width."""

    @abstractmethod
    def _transform(self, scale: Scale, size: int, chances: Augmentation, norm: dict[str, Any]) -> Transform:
        """Return the chain of augmentations for one kind of crop."""

    @abstractmethod
    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """Return the mean loss of the views of one batch."""

    @abstractmethod
    def _clip(self) -> None:
        """Clip the gradients."""

    @abstractmethod
    def _move_teacher(self) -> None:
        """Move the teacher towards the student."""


class DinoLoop(Peer):
    """The reference loop: crops of one size in one forward pass, then the head once; the rest is done by parameter."""

    def __init__(self, config: LearnerConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.centre = torch.zeros(1, self.objective.prototypes, device=device)

    def _head(self, width: int) -> nn.Module:
        return DinoHead(width, self.objective)

    def _transform(self, scale: Scale, size: int, chances: Augmentation, norm: dict[str, Any]) -> Transform:
        jitter = transforms.ColorJitter(chances.brightness, chances.contrast, chances.saturation, chances.hue)
        chain: Transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=scale, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.RandomHorizontalFlip(chances.flip),
                transforms.RandomApply([jitter], chances.jitter),
                transforms.RandomGrayscale(chances.grey),
                transforms.RandomApply([_blurred], chances.blur),
                transforms.RandomSolarize(128, chances.solarise),
                transforms.ToTensor(),
                transforms.Normalize(norm["mean"], norm["std"]),
            ]
        )
        return chain

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """See Peer."""
        with torch.no_grad():
            past = self.teacher(views[0])
            target = F.softmax((past - self.centre) / self.objective.teacher_temperature, -1)
        logits = self.student(torch.cat(list(views[1:]))) / self.objective.student_temperature
        crops = logits.chunk(len(views) - 1)
        terms = [torch.sum(-target * F.log_softmax(crop, dim=-1), dim=-1).mean() for crop in crops]
        with torch.no_grad():
            self.centre = self.centre * CENTRE_MOMENTUM + past.mean(0, keepdim=True) * (1 - CENTRE_MOMENTUM)
        return torch.stack(terms).mean()

    def _clip(self) -> None:
        for parameter in self.trained:
            if parameter.grad is not None:
                share = self.clip / (parameter.grad.norm(2) + 1e-6)
                if share < 1:
                    parameter.grad.mul_(share)

    @torch.no_grad()
    def _move_teacher(self) -> None:
        keep = self.objective.teacher_momentum
        for now, past in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
            past.mul_(keep).add_((1 - keep) * now.detach())


class DinoHead(nn.Module):
    """Three layers with GELU, normalisation to a unit vector, and a weight-normed last layer whose rows have length 1."""

    def __init__(self, width: int, sizes: BabyAgentConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, sizes.hidden),
            nn.GELU(),
            nn.Linear(sizes.hidden, sizes.hidden),
            nn.GELU(),
            nn.Linear(sizes.hidden, sizes.bottleneck),
        )
        last = nn.Linear(sizes.bottleneck, sizes.prototypes, bias=False)
        self.last: Any = nn.utils.parametrizations.weight_norm(last)
        self.last.parametrizations.weight.original0.data.fill_(1)
        self.last.parametrizations.weight.original0.requires_grad = False

    def forward(self, features: Tensor) -> Tensor:
        """Map features, [B, width], to logits, [B, K]."""
        logits: Tensor = self.last(F.normalize(self.mlp(features), dim=-1))
        return logits


class LightlyLoop(Peer):
    """The loop of lightly 1.6, with its head, loss, transform and EMA; each view in a separate pass, as in its DINO example."""

    def __init__(self, config: LearnerConfig, device: torch.device) -> None:
        super().__init__(config, device)
        from lightly.loss import DINOLoss

        sharp, soft = self.objective.teacher_temperature, self.objective.student_temperature
        self.criterion = DINOLoss(self.objective.prototypes, teacher_temp=sharp, student_temp=soft).to(device)

    def _head(self, width: int) -> nn.Module:
        from lightly.models.modules import DINOProjectionHead

        sizes = self.objective
        head: nn.Module = DINOProjectionHead(width, sizes.hidden, sizes.bottleneck, sizes.prototypes)
        return head

    def _transform(self, scale: Scale, size: int, chances: Augmentation, norm: dict[str, Any]) -> Transform:
        from lightly.transforms.dino_transform import DINOViewTransform

        transform: Transform = DINOViewTransform(
            crop_size=size,
            crop_scale=scale,
            hf_prob=chances.flip,
            cj_prob=chances.jitter,
            cj_strength=1.0,
            cj_bright=chances.brightness,
            cj_contrast=chances.contrast,
            cj_sat=chances.saturation,
            cj_hue=chances.hue,
            random_gray_scale=chances.grey,
            gaussian_blur=chances.blur,
            solarization_prob=chances.solarise,
            normalize={"mean": norm["mean"], "std": norm["std"]},
        )
        return transform

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """See Peer."""
        with torch.no_grad():
            past = self.teacher(views[0])
        present = [self.student(view) for view in views[1:]]
        loss: Tensor = self.criterion([past], [torch.zeros_like(past), *present])
        return loss

    def _clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.trained, self.clip)

    def _move_teacher(self) -> None:
        from lightly.models.utils import update_momentum

        for now, past in zip(self.student, self.teacher, strict=True):
            update_momentum(now, past, m=self.objective.teacher_momentum)


PEERS: dict[str, type[Peer]] = {"dino": DinoLoop, "lightly": LightlyLoop}


def _blurred(image: Image.Image) -> Image.Image:
    """Blur an image by a Gaussian with a standard deviation of 0.1 to 2 pixels."""
    return image.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * float(torch.rand(()))))
