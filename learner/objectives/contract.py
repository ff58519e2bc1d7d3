"""What an objective is: it maps (state, batch) to a loss and a priority for each pair, and brings everything else itself.

Views, heads, teacher, centre, queue or decoder belong to the objective, one file each under `learner/objectives/`; the loop
knows only this contract. An objective is an `nn.Module`, so its whole state travels in `state_dict()`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Generator, Tensor, nn

from learner.networks.encoder import Encoder, EncoderConfig


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs on the compute device. left, right: uint8 [B, H, W, 3] BGR; aspect: float [B], width / height before squeezing."""

    left: Tensor
    right: Tensor
    aspect: Tensor

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch gave, before any reduction over pairs.

    losses: [B], what the optimiser lowers, with gradient. priority: [B], what the reservoir ranks by, without. gauges:
    scalars for the eye; never used for training.
    """

    losses: Tensor
    priority: Tensor
    gauges: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """How the objective looked at a batch, for a person: see `learner.views.crops` for windows.

    attention: [B, heads, h, w]; head: int [B]; gauss: [B, 4] mean x, y and standard deviation x, y; window: [B, 4];
    crops: [B, N, 4]; teacher_view: [B, 3, s, s]; student_views: [B, N, 3, s, s], RGB in [0, 1].
    """

    attention: Tensor
    head: Tensor
    gauss: Tensor
    window: Tensor
    crops: Tensor
    teacher_view: Tensor
    student_views: Tensor


class Meaning(NamedTuple):
    """What a gauge says, for whoever watches a run."""

    unit: str
    """The end of its name as a metric, say `nats` or `ratio`; empty for a plain number."""
    text: str


class Objective(Protocol):
    """A self-supervised objective with its networks and its state."""

    meanings: ClassVar[Mapping[str, Meaning]]
    """Of each gauge that its outcomes bring."""

    def __call__(self, batch: Batch, generator: Generator) -> Outcome:
        """Losses of one batch; draws its views from `generator`."""

    def trained(self) -> Iterable[nn.Parameter]:
        """What the optimiser may change."""

    def after_step(self) -> None:
        """Called once after each optimiser step: move the teacher, the centre, the queue."""

    def encoders(self) -> dict[str, Encoder]:
        """The encoders worth probing and exporting, by name."""

    def look(self, batch: Batch, generator: Generator) -> Look:
        """The views of a batch, without training on them."""

    def named_modules(self) -> Iterable[tuple[str, nn.Module]]:
        """Each part by its place in `state_dict`; `nn.Module` brings it."""

    def to(self, device: torch.device) -> Self:
        """Move the networks and the state there; `nn.Module` brings it."""

    def state_dict(self) -> dict[str, Any]:
        """Networks and everything else that the next loss depends on; `nn.Module` brings it."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Continue from `state_dict()`."""


class ObjectiveConfig(ABC):
    """The settings of an objective: a frozen dataclass that knows what it is the settings of."""

    name: ClassVar[str]
    """What the objective is called in a run's settings."""

    @abstractmethod
    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective at its random start, drawn from torch's global generator. Raises SettingsError."""

    @property
    @abstractmethod
    def probe_size(self) -> int:
        """Side in pixels at which control sets are shown to its encoders, unless the set says another."""
