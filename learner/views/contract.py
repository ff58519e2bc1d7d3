"""What an objective sees: a batch of pairs goes in, its views come out.

The settings of each kind of views are a dataclass with a `name`; `maker` returns the function that makes them. An objective says
which kinds it can take, and does not know where on a pair they lie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    one subject, or of one device where none is named. clips: int64 [B], equal for the pairs of one clip, which are consecutive
    rows in the order of time. epochs: int64 [B], equal for pairs of one start of a rig. times_s: float64 [B], when each was
    captured, in seconds since the first pair of its epoch in this batch. All five are None where pairs come from no memory.
    signals: by name, float [B, width], what the rig measured since the pair before, the mean of its rows; nan for a pair
    without it.
    """

    left: Tensor
    right: Tensor
    aspect: Tensor
    keys: Tensor | None = None
    subjects: Tensor | None = None
    clips: Tensor | None = None
    epochs: Tensor | None = None
    times_s: Tensor | None = None
    signals: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.left)

    def numbers(self) -> Tensor:
        """Return the keys; of pairs without any their places in the batch of all processes."""
        first = collectives.number() * len(self)
        return torch.arange(first, first + len(self), device=self.left.device) if self.keys is None else self.keys

    def clip_numbers(self) -> Tensor:
        """Return the clip of each pair, int64 [B]; a pair outside of any clip is a clip of its own."""
        return self.numbers() if self.clips is None else self.clips

    def windows(self, count: int) -> Tensor:
        """Return all runs of `count` consecutive pairs within one clip, overlapping ones too: rows, int64 [W, count]."""
        clips = self.clip_numbers()
        rows = torch.arange(len(self), device=clips.device).unfold(0, count, 1) if count <= len(self) else None
        if rows is None:
            return torch.empty(0, count, dtype=torch.int64, device=clips.device)
        return rows[clips[rows[:, 0]] == clips[rows[:, -1]]]

    def starts(self) -> Tensor:
        """Return the row of the first pair of the clip of each pair, int64 [B]; a pair outside of any clip is one by itself."""
        rows = torch.arange(len(self), device=self.left.device)
        if self.clips is None:
            return rows
        is_later = self.clips == self.clips.roll(1)
        is_later[:1] = False
        return torch.where(is_later, 0, rows).cummax(0).values


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
