"""What an objective sees: a batch of pairs goes in, its views come out.

The settings of each kind of views are a dataclass with a `name`; `maker` returns the function that makes them. An objective says
which kinds it can take, and does not know where on a pair they lie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from learner.bounds import Choice
from learner.distributed import collectives
from learner.networks.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs on the compute device. left, right: uint8 [B, H, W, 3] BGR; aspect: float [B], width / height before squeezing.

    keys: int64 [B] >= 0, the key of each pair in memory, the same whenever it is drawn. subjects: int64 [B], equal for pairs of
    one device. Both are None where pairs come from no memory.
    """

    left: Tensor
    right: Tensor
    aspect: Tensor
    keys: Tensor | None = None
    subjects: Tensor | None = None

    def __len__(self) -> int:
        return len(self.left)

    def numbers(self) -> Tensor:
        """Return the keys; of pairs without any their places in the batch of all processes."""
        first = collectives.number() * len(self)
        return torch.arange(first, first + len(self), device=self.left.device) if self.keys is None else self.keys


@dataclass(frozen=True, slots=True)
class Views:
    """Views of a batch, float RGB in [0, 1]: the large ones [B, G, 3, S, S], and the small ones [B, N, 3, s, s]; N may be 0."""

    large: Tensor
    small: Tensor

    def through(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a network says of each view, the large ones first: [B, G + N, D]."""
        sizes = [views for views in (self.large, self.small) if views.shape[1]]
        found = [network(views.flatten(0, 1)).view(*views.shape[:2], -1) for views in sizes]
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    @property
    def rest(self) -> Views:
        """All but the first large view."""
        return Views(self.large[:, 1:], self.small)

    @property
    def only_large(self) -> Views:
        """The large ones alone."""
        return Views(self.large, self.small[:, :0])

    def pictures(self) -> dict[str, Tensor]:
        """Return what a person sees of them, by name: images [B, n, 3, S, S] in [0, 1], or numbers that place them."""
        return {name: views for name, views in (("large", self.large), ("small", self.small)) if views.shape[1]}


MakeViews = Callable[[Batch, Generator], Views]


@dataclass(frozen=True, kw_only=True)
class ViewsConfig(Choice, ABC):
    """The settings of one kind of views."""

    label: ClassVar[str] = "views"

    @abstractmethod
    def maker(self, encoder: Encoder) -> MakeViews:
        """Return the function that makes views; encoder: the one whose attention may place them. Raises SettingsError."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Views of a pair."""

    @property
    @abstractmethod
    def probe_size(self) -> int:
        """Side in pixels at which encoders see a control set that has no size of its own."""
