"""The contract of an objective: it maps a batch to a loss for each pair, with features to judge them by.

An objective is one file below `learner/objectives/`, or a class of yours (docs/objectives.md): its settings, its networks, and a
formula over the views of a batch. The trainer knows only this contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, NamedTuple, get_args

import torch
from torch import Generator, Tensor, nn
from typing_extensions import TypeVar, get_original_bases

from learner.bounds import Choice
from learner.errors import SettingsError
from learner.networks.encoder import Encoder, EncoderConfig
from learner.parts.meaning import Meaning
from learner.parts.network import Network
from learner.views.contract import Batch, MakeViews, Views, ViewsConfig

NONE: Mapping[nn.Parameter, float] = {}

__all__ = ["Batch", "Kit", "Meaning", "Objective", "ObjectiveConfig", "Outcome", "Views"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a batch, before any reduction over pairs. The optimiser lowers `losses.mean() + shared`.

    losses: float [B], with gradient, each pair's own. features: float [B, D] of the probed encoder; the guard and the common
    gauges come from them. priority: float [B] >= 0, by which the reservoir ranks; None takes the losses. shared: a scalar with
    gradient, a term of the whole batch. gauges: scalars for people and for the guard.
    """

    losses: Tensor
    features: Tensor
    priority: Tensor | None = None
    shared: Tensor | None = None
    gauges: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def ranked_by(self) -> Tensor:
        """What the reservoir ranks by: float [B], without gradient."""
        return self.losses.detach() if self.priority is None else self.priority


class Kit(NamedTuple):
    """What the settings of a run give an objective to build with."""

    encoder_config: EncoderConfig
    views_config: ViewsConfig
    given: Encoder | None = None
    """The encoder of two objectives that share it."""

    def encoder(self) -> Encoder:
        """Return the given encoder, or a new one at its random start. Raises SettingsError."""
        return Encoder(self.encoder_config) if self.given is None else self.given

    def views(self, encoder: Encoder) -> MakeViews:
        """Return the function that makes the views; encoder: the one whose attention may place them. Raises SettingsError."""
        return self.views_config.maker(encoder)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Choice):
    """The settings of an objective: a frozen dataclass, of which each field becomes a flag.

    The name of a class of yours is `package.module:Class`.
    """

    label: ClassVar[str] = "objective"
    takes: ClassVar[tuple[type[ViewsConfig], ...]]
    """The kinds of views that it can take; the default is the first one, or the one that the settings inherit from."""
    objective: ClassVar[type[Objective[Any]]]
    """The class that these settings build."""
    clip: ClassVar[int] = 1
    """Consecutive pairs in an item of memory: the number in its presets, and the least that it needs."""
    signals: ClassVar[tuple[str, ...]] = ()
    """Names of the signals that it needs."""
    view_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """For a preset, the values of the default views that differ from those of the views themselves."""

    decay_biases: bool = False
    """Whether weight decay also applies to biases, norms and tokens."""

    def default_views(self, preset: str = "") -> ViewsConfig:
        """Return the views that it takes where no others were chosen."""
        if isinstance(self, ViewsConfig):
            return self
        return replace(self.takes[0].for_preset(preset), **self.view_presets.get(preset, {}))

    @property
    def views_name(self) -> str:
        """The kind of the default views."""
        return next((kind.name for kind in self.takes if isinstance(self, kind)), self.takes[0].name)

    def build(self, encoder: EncoderConfig, views: ViewsConfig | None = None) -> Objective[Any]:
        """Return the objective at its random start, drawn from torch's global generator. Raises SettingsError."""
        objective = self.objective(self, Kit(encoder, views or self.default_views()))
        if problem := _problem_of(objective):
            raise SettingsError(f"objective {self.name}: {problem}; docs/objectives.md has an example")
        return objective


ConfigT = TypeVar("ConfigT", bound=ObjectiveConfig, default=ObjectiveConfig, covariant=True)


class Objective(nn.Module, ABC, Generic[ConfigT]):
    """A self-supervised objective with its networks; `state_dict()` holds all that the next loss depends on.

    A subclass names its settings: `class MoCo(Objective[MoCoConfig])`. What it probes and exports are its attributes that are a
    `Network`; one of them is called `student`.
    """

    settings: ClassVar[type[ObjectiveConfig]]
    meanings: ClassVar[Mapping[str, Meaning]] = {}
    """The meaning of each gauge in its outcomes."""
    shared_statistics: ClassVar[str] = ""
    """The reason why a pair that is not finite spoils the losses of its batch, where it does; the step is refused in any case."""
    views: MakeViews
    window: int = 1
    """Consecutive pairs of a clip that a loss looks at: where memory keeps fewer together, nothing would be learned."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for settings in (one for base in get_original_bases(cls) for one in get_args(base)):
            if isinstance(settings, type) and issubclass(settings, ObjectiveConfig):
                cls.settings = settings
                if "objective" not in vars(settings):  # settings belong to the first class that names them
                    settings.objective = cls
                    settings.name = vars(settings).get("name", f"{cls.__module__}:{cls.__qualname__}")

    def __init__(self, config: ConfigT, kit: Kit) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return losses and features of each pair; all randomness of the views comes from `generator`. Nothing changes."""

    def trained(self) -> Iterable[nn.Parameter]:
        """Return the parameters that the optimiser may change."""
        return (weight for weight in self.parameters() if weight.requires_grad)

    def rate_factors(self) -> Mapping[nn.Module, float]:
        """Return the parts whose learning rate is not that of the others, with its factor."""
        return {}

    def groups(self, adapted: Mapping[nn.Parameter, float] = NONE) -> list[dict[str, Any]]:
        """Return the groups of parameters for the optimiser, each with the factor of its learning rate.

        adapted: another factor for some of them (`learner.adapt`), whose groups are marked by `is_adapted`.
        """
        factors = {weight: factor for part, factor in self.rate_factors().items() for weight in part.parameters()}
        groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
        for name, weight in self.named_parameters():
            is_spared = not self.config.decay_biases and (weight.ndim < 2 or name.endswith(("token", "pos_embed")))
            if weight.requires_grad:
                factor = factors.get(weight, 1.0) * adapted.get(weight, 1.0)
                groups.setdefault((factor, is_spared, weight in adapted), []).append(weight)
        spared: dict[bool, dict[str, Any]] = {True: {"weight_decay": 0.0}, False: {}}
        marked: dict[bool, dict[str, Any]] = {True: {"is_adapted": True}, False: {}}
        return [
            {"params": some, "rate_factor": factor} | spared[is_spared] | marked[is_adapted]
            for (factor, is_spared, is_adapted), some in groups.items()
        ]

    @torch.no_grad()
    def after_step(self) -> None:
        """Let each part that has an `after_step` move, inner ones first, then in their order: norms, copies, queues, clusters.

        Called once after each step of the optimiser; it is the place for work between steps.
        """
        parts: list[nn.Module] = []
        for child in self.children():
            child.apply(parts.append)
        for part in dict.fromkeys(parts):
            if move := getattr(part, "after_step", None):
                move()

    def encoders(self) -> dict[str, Encoder]:
        """Return the encoders to probe and to export, by name."""
        return {name: part.encoder for name, part in self.named_children() if isinstance(part, Network)}

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """Return pictures of a batch for a person, by name: float RGB [B, 3, S, S] or [B, n, 3, S, S]; without any training."""
        return self.views(batch, generator).pictures()


def _problem_of(objective: Objective[Any]) -> str:
    """Return what an objective lacks; empty if nothing."""
    if "student" not in objective.encoders():
        return "it has no attribute `student` that is a Network"
    wrong = [name for name, meaning in objective.meanings.items() if not isinstance(meaning, Meaning)]
    return f"the meaning of {wrong[0]} must be a Meaning(unit, text)" if wrong else ""
