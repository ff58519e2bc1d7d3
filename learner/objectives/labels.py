"""Labels beside self-supervision: the classes of labelled images are guessed too, `--objective ntxent+labels`.

With x_v the features of view v of a labelled image, y its class, and W, b a linear classifier:

    shared = mean over the images and their views of -log softmax(W x_v + b)_y

It says nothing of pairs, so it only stands behind a +. The images are the train half of a control set, seen through views of the
kind that pairs have; its test half is never trained on, and what was trained on is left out of every test half that is probed
(`learner.probes.unseen`). The published mixtures of both losses (Zhai et al. 2019, S4L, section 3) have a weight of about 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from learner.bounds import Count
from learner.objectives.contract import Batch, Kit, Meaning, Objective, ObjectiveConfig, Outcome
from learner.parts.heads import Classifier
from learner.parts.network import Network
from learner.probes.control_sets import load_control
from learner.views.masks import BlockConfig, MasksConfig
from learner.views.one_eye import WholeConfig
from learner.views.parallax import ParallaxConfig
from learner.views.several import SEVERAL


@dataclass(frozen=True, kw_only=True)
class LabelsConfig(ObjectiveConfig):
    """The labelled images."""

    name = "labels"
    takes = (*SEVERAL, MasksConfig, BlockConfig, ParallaxConfig, WholeConfig)

    images: str = "digits"
    """The labelled images: a control set, as --control names it (docs/control-sets.md). Its train half is learned from."""
    limit: Count = 10000
    """Most images that are held, equally many of each class."""
    images_a_step: Count = 32
    """Labelled images of a step, in each process."""

    @property
    def limits(self) -> dict[str, int]:
        """The limits of `load_control`."""
        return {"limit_train": self.limit, "limit_test": self.limit}


class Labels(Objective[LabelsConfig]):
    """A classifier, and the labelled images, of which a run keeps only what is `known` of them. Raises ControlError."""

    meanings = {"labels_right": Meaning("ratio", "Views of labelled images whose class is guessed right.")}
    images: Tensor
    labels: Tensor

    def __init__(self, config: LabelsConfig, kit: Kit) -> None:
        super().__init__(config, kit)
        encoder = kit.encoder()
        self.student, self.views = Network(encoder, nn.Identity()), kit.views(encoder)
        self.look = self.views
        control = load_control(config.images, size=kit.views_config.probe_size, **config.limits)
        self.register_buffer("images", torch.from_numpy(control.train_images), persistent=False)
        self.register_buffer("labels", torch.from_numpy(control.train_labels), persistent=False)
        self.classifier = Classifier(encoder.dim, len(control.classes))
        self.known = {"classes": list(control.classes), "sha256": control.train_sha256}

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return the cross-entropy of labelled images as the shared term; losses and features of the pairs are 0."""
        count, device = self.config.images_a_step, self.images.device
        drawn = torch.randint(len(self.images), (count,), generator=generator, device=device)
        labelled = Batch(self.images[drawn], self.images[drawn], torch.ones(count, device=device))
        features = self.look(labelled, generator).through(self.student.encoder)
        labels = self.labels[drawn].repeat_interleave(features.shape[1])
        losses, is_right = self.classifier(features.flatten(0, 1), labels)
        nothing = losses.new_zeros(len(batch), features.shape[-1])
        return Outcome(nothing[:, 0], nothing, None, losses.mean(), {"labels_right": is_right.float().mean()})
