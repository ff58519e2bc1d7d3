"""Adapts the student of any objective: freezes, corrects and anchors its encoder, and says how fast each weight trains.

It needs nothing of an objective but its contract: the encoder called `student`. Everything outside of it is a head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Generator, nn
from torch.func import functional_call

from learner.adapt.anchor import ANCHOR_MEANINGS, anchor
from learner.adapt.config import AdaptConfig
from learner.adapt.layers import layers_of, matrices_of
from learner.adapt.lora import Lora
from learner.errors import SettingsError
from learner.networks.encoder import Encoder
from learner.networks.norm import SharedBatchNorm
from learner.objectives.contract import Batch, Objective, Outcome
from learner.parts.meaning import Meaning
from learner.schedule import ScheduleConfig

LORA = "lora"
"""The name of the corrections among the parts of an objective."""


class Adaptation:
    """The adaptation of an objective's student. Without settings that change something, it leaves everything as it is.

    side: of whole images in pixels, for the second teacher. rates: factors of the learning rates of the encoder's weights, for
    `Objective.groups`. start: the frozen copy of the start, where something needs it. Random numbers come from torch's global
    generator. Raises SettingsError for a backbone that cannot be adapted.
    """

    start: Encoder | None = None
    meanings: Mapping[str, Meaning] = {}

    def __init__(self, config: AdaptConfig, objective: Objective[Any], side: int, schedule: ScheduleConfig) -> None:
        self.config, self._side, self._schedule = config, side, schedule
        self._objective, self._student = objective, objective.encoders()["student"]
        self.rates: dict[nn.Parameter, float] = {}
        self._lora: Lora | None = None
        if config.changes_nothing:
            return
        if config.plan == "lora" or config.is_anchored:
            self.start = copy.deepcopy(self._student).requires_grad_(False).eval()
        if config.is_anchored:
            self.meanings = ANCHOR_MEANINGS
        self._prefix = next(f"{name}." for name, part in objective.named_modules() if part is self._student.backbone)
        self._choose()
        self._trained = [weight for weight in self.rates if weight.requires_grad]
        self._settle_norms()

    def _choose(self) -> None:
        """Freeze what does not train, make corrections, and give each trained weight of the encoder its rate."""
        config, layers = self.config, layers_of(self._student)
        own: dict[str, nn.Parameter] = dict(self._student.backbone.named_parameters())
        whole = len(layers) - config.blocks if config.plan in ("last", "lora") else 0
        for name in (name for layer in layers[: max(0, whole)] for name in layer):
            own[name].requires_grad_(False)
        factors = self._correct({name: own[name] for layer in layers[1 : max(1, whole)] for name in layer})
        first = (config.learning_rate or self._schedule.learning_rate) / self._schedule.learning_rate
        for number, layer in enumerate(layers):
            rate = first * config.layer_decay ** (len(layers) - 1 - number)
            self.rates |= {weight: rate for name in layer for weight in (own[name], *factors.get(name, ()))}

    def _correct(self, between: Mapping[str, nn.Parameter]) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """Make corrections, for the plan lora, of the matrices among these weights; return their factors by name."""
        if self.config.plan != "lora" or self.start is None:
            return {}
        sizes, rank = matrices_of(self._student), self.config.rank
        chosen = {name: weight for name, weight in between.items() if min(sizes.get(name, (0,))) >= 2 * rank}
        if not chosen:
            raise SettingsError(
                f"adapt: lora finds no matrix that is at least {2 * rank} wide between the stem and the last "
                f"{self.config.blocks} layers of backbone {self._student.config.backbone!r}: lower --adapt.rank or --adapt.blocks"
            )
        start = dict(self.start.backbone.named_parameters())
        self._lora = Lora(chosen, sizes, start, rank=rank, strength=self.config.strength)
        self._objective.add_module(LORA, self._lora)
        return self._lora.parameters_of()

    def begin(self) -> None:
        """Take the present weights of the student for the start."""
        if self.start is not None:
            self.start.load_state_dict(self._student.state_dict())
        if self._lora is not None:
            self._lora.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the frozen start, where there is one; all else is in the state of the objective."""
        return {} if self.start is None else {"start": self.start.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that holds what `state_dict` returns."""
        if self.start is not None:
            self.start.load_state_dict(state["start"])

    def ramp(self, step: int) -> float:
        """Let train what trains in step number `step`, from 0; return the factor of the encoder's rates, which rise from 0."""
        alone = self.config.heads_alone_steps
        if self.rates:
            self._train(step >= alone)
        return min(1.0, (step - alone + 1) / max(1, self._schedule.warmup_steps)) if alone and step >= alone else 1.0

    def _train(self, is_on: bool) -> None:
        if self._trained[0].requires_grad is is_on:
            return
        for weight in self._trained:
            weight.requires_grad_(is_on)

    def _settle_norms(self) -> None:
        """Let batch norms keep the statistics of the start, in the student and in the copies that follow it.

        Those of a stream of few scenes, in small augmented batches, are others, and cost good features more than all training.
        """
        for encoder in (part for part in self._objective.modules() if isinstance(part, Encoder)):
            for norm in (part for part in encoder.modules() if isinstance(part, SharedBatchNorm)):
                norm.training = False

    def outcome(self, objective: Objective[Any], batch: Batch, generator: Generator) -> Outcome:
        """Return the losses of a batch, with the corrected weights and the distance from the start."""
        if self._lora is None:
            return self._anchored(objective, batch, generator)
        sums = {f"objective.{self._prefix}{name}": value for name, value in self._lora.sums().items()}
        step = _Step(objective, self._anchored)
        # Objectives that share the encoder have the same modules: a tensor that is replaced twice is not put back.
        found: Outcome = functional_call(step, sums, (batch, generator), tie_weights=False)
        return found

    def _anchored(self, objective: Objective[Any], batch: Batch, generator: Generator) -> Outcome:
        outcome: Outcome = objective(batch, generator)
        if self.start is None or not self.config.is_anchored:
            return outcome
        distance, gauges = anchor(self._student, self.start, batch, self.config, self._side)
        shared = distance if outcome.shared is None else outcome.shared + distance
        return replace(outcome, shared=shared, gauges={**outcome.gauges, **gauges})

    def after_step(self) -> None:
        """Follow a step of the optimiser, before the objective does."""
        if self._lora is not None:
            self._lora.merge()


class _Step(nn.Module):
    """Makes the weights of an objective known to `functional_call` under the name `objective`, while `work` uses them."""

    def __init__(self, objective: Objective[Any], work: Callable[[Objective[Any], Batch, Generator], Outcome]) -> None:
        super().__init__()
        self.objective, self._work = objective, work

    def forward(self, batch: Batch, generator: Generator) -> Outcome:
        """Return what `work` returns."""
        return self._work(self.objective, batch, generator)
