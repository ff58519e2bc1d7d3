"""The contract of an objective: it maps a batch to a loss and a priority for each pair.

Views, projector, teacher, centre, queue and decoder belong to the objective, which is one file in `learner/objectives/`; the
trainer knows only this contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

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
    """The result of a batch, before any reduction over pairs.

    losses: float [B], with gradient; the optimiser lowers their mean. priority: float [B] >= 0, without gradient; the reservoir
    ranks by it. gauges: scalars for people and for the collapse guard; no gradient comes from them.
    """

    losses: Tensor
    priority: Tensor
    gauges: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """The views of a batch and how they were chosen, for a person; `learner.views.crops` explains windows.

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
    """The meaning of a gauge, for people who watch a run."""

    unit: str
    """The last part of its name as a metric, for example `nats` or `ratio`; empty for a plain number."""
    text: str


class Objective(nn.Module, ABC):
    """A self-supervised objective with its networks; `state_dict()` holds all that the next loss depends on."""

    meanings: ClassVar[Mapping[str, Meaning]]
    """The meaning of each gauge in its outcomes."""

    @abstractmethod
    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return losses and priority of each pair; all randomness of the views comes from `generator`."""

    @abstractmethod
    def trained(self) -> Iterable[nn.Parameter]:
        """Return the parameters that the optimiser may change."""

    @abstractmethod
    def after_step(self) -> None:
        """Move teacher, centre or queue; called once after each step of the optimiser."""

    @abstractmethod
    def encoders(self) -> dict[str, Encoder]:
        """Return the encoders to probe and to export, by name."""

    @abstractmethod
    def look(self, batch: Batch, generator: Generator) -> Look:
        """Return the views of a batch, without training on them."""


class ObjectiveConfig(ABC):
    """The settings of an objective: a frozen dataclass that builds it."""

    name: ClassVar[str]
    """The name of the objective in the settings of a run."""

    @abstractmethod
    def build(self, encoder: EncoderConfig) -> Objective:
        """Return the objective at its random start, drawn from torch's global generator. Raises SettingsError."""

    @property
    @abstractmethod
    def probe_size(self) -> int:
        """Side in pixels at which its encoders see a control set that has no size of its own."""
