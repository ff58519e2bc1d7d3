"""One training step over one batch: networks, optimiser, learning rate and collapse guard.

Pure PyTorch. Where pairs come from, where they are remembered and where the state is stored is decided elsewhere. Of several
processes each has a trainer with the same weights and its own part of the batch; they step together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from buffer.priority import PRIORITY_LIMIT
from learner.adapt.adaptation import Adaptation
from learner.adapt.forgetting import Answers, ForgettingGuard, Judgement
from learner.config import LearnerConfig
from learner.distributed import collectives
from learner.errors import Collapsed, NonFiniteLoss, SettingsError
from learner.guard import CollapseGuard
from learner.objectives.contract import Batch, Objective, Outcome
from learner.probes.spectrum import COMMON_MEANINGS, feature_gauges
from learner.schedule import learning_rate, optimiser

__all__ = ["Answers", "Judgement", "Step", "StepReport", "Trainer"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_COUNTS = ("steps", "samples", "refused_in_a_row")


@dataclass(frozen=True, slots=True)
class StepReport:
    """One training step. Loss and priority are means over the batch of the values of each pair."""

    step: int
    samples: int
    """Pairs trained on so far, with repetition."""
    received: int
    """Pairs received so far."""
    loss: float
    grad_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float
    priority: float = 0.0
    busy_s: float = 0.0
    """Seconds spent decoding and training since the last step."""
    waited_s: float = 0.0
    """Seconds spent waiting for pairs since the last step."""
    gauges: dict[str, float] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    """The pairs with a loss or priority that cannot be used; the step then changed no weight."""
    fresh: tuple[tuple[str, int], ...] = ()
    """Device and capture time, nanoseconds since 1970, of this process's pairs that were trained on for the first time."""
    rolled_back: str = ""
    """The reason why the networks went back to an earlier snapshot after this step; empty if they did not."""


class Step(NamedTuple):
    """A step, with what memory needs of it, for this process's part of the batch, [b] pairs."""

    report: StepReport
    is_refused: bool
    is_bad: NDArray[np.bool_]
    """The pairs because of which the step was refused; all, where only the gradient is not finite."""
    priority: NDArray[np.float64]


class Trainer:
    """The networks of an objective with their optimiser and collapse guard, at their random start.

    steps: steps tried; samples: pairs trained on, with repetition; refused_in_a_row: refused steps since the last good one.
    Raises SettingsError for a compute device that is not there, and for windows that are longer than the clips in memory.
    """

    def __init__(self, config: LearnerConfig, device: torch.device) -> None:
        if device.type == "cuda" and not torch.cuda.is_available():
            raise SettingsError(
                "device cuda was asked for, but torch finds no GPU here: use --device cpu, or check the driver"
            )
        self.config = config
        self.device = device
        self.steps = self.samples = self.refused_in_a_row = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.objective = config.objective.build(config.encoder, config.crops).to(device)
            self.adaptation = Adaptation(config.adapt, self.objective, config.crops.probe_size, config.schedule)
        if (window := self.objective.window) > config.memory.clip:
            raise SettingsError(
                f"objective {config.objective.name} looks at {window} consecutive pairs, and memory keeps "
                f"{config.memory.clip} together: --memory.clip {window}"
            )
        self.meanings = {**COMMON_MEANINGS, **self.objective.meanings, **self.adaptation.meanings}
        self.optimizer = optimiser(config.schedule, self.objective.groups(self.adaptation.rates))
        self.guard, self.forgetting = CollapseGuard(config.guard), ForgettingGuard(config.forgetting)
        self.fine: dict[str, Any] | None = None
        """The networks at the last probe that was not below the start, as a snapshot; None: there was none, or nobody watches."""
        self._snapshots = [self._snapshot()]  # at most two, the older one first: a collapse goes back to it
        self.generator = torch.Generator(device).manual_seed(_seed_of_views(config.seed, 0))

    def begin(self, change: Callable[[Objective[Any]], T]) -> T:
        """Let `change` give the networks other weights before the first step, and return what it returns."""
        found = change(self.objective)
        self.adaptation.begin()
        self._snapshots = [self._snapshot()]
        return found

    def step(self, batch: Batch, rate_factor: float = 1.0) -> Step:
        """Train on a batch once. A step with a loss, priority or gradient that cannot be used changes no weight.

        rate_factor: multiplies the learning rate.
        """
        rate = self._set_rate(rate_factor)
        outcome, grad_norm = self._backward(batch)
        losses = collectives.all_rows(outcome.losses.detach())
        priority = collectives.all_rows(outcome.ranked_by.detach()).double().cpu().numpy()
        is_bad = ~(losses.isfinite().cpu().numpy() & (priority >= 0) & (priority <= PRIORITY_LIMIT))
        is_refused = not torch.isfinite(grad_norm) or bool(is_bad.any())
        self.steps += 1
        if is_refused:
            self.refused_in_a_row += 1
            is_bad |= not is_bad.any()
        else:
            self._update(len(priority))
        gauges = self._gauges(outcome)
        rolled_back = "" if is_refused else self._guarded(gauges)
        loss = float(losses.mean()) + (0.0 if outcome.shared is None else float(outcome.shared.detach()))
        figures = loss, float(grad_norm), rate, float(priority.mean())
        # The 0 is `received`: the learner counts pairs, and the trainer does not know them.
        report = StepReport(self.steps, self.samples, 0, *figures, gauges=gauges, rolled_back=rolled_back)
        own = slice(collectives.number() * len(batch), (collectives.number() + 1) * len(batch))
        return Step(report, is_refused, is_bad[own], priority[own])

    def outcome(self, batch: Batch, generator: torch.Generator) -> Outcome:
        """Return the losses of a batch, in the precision of the settings; nothing changes."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            outcome = self.adaptation.outcome(self.objective, batch, generator)
        if outcome.losses.shape != (len(batch),):
            raise SettingsError(
                f"objective {self.config.objective.name}: its losses have shape {list(outcome.losses.shape)}, and must have one "
                f"for each of the {len(batch)} pairs; docs/objectives.md has an example"
            )
        return outcome

    def _set_rate(self, factor: float) -> float:
        since = max(self.guard.since, self.forgetting.since)
        factor *= self.guard.rate_factor * self.forgetting.rate_factor
        rate = learning_rate(self.config.schedule, self.steps - since) * factor
        ramp = self.adaptation.ramp(self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0) * (ramp if group.get("is_adapted") else 1.0)
        return rate

    def _backward(self, batch: Batch) -> tuple[Outcome, Tensor]:
        """Compute the losses and the clipped gradient of the whole batch; nothing else changes."""
        outcome = self.outcome(batch, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss = outcome.losses.mean()
        torch.autograd.backward(loss if outcome.shared is None else loss + outcome.shared)
        collectives.average_([weight.grad for weight in self.objective.trained() if weight.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(self.objective.trained(), self.config.schedule.clip_grad_norm)
        return outcome, norm

    def _gauges(self, outcome: Outcome) -> dict[str, float]:
        """Return the gauges of the whole batch: the objective's own, and those of the features."""
        collectives.average_(list(outcome.gauges.values()))
        own = {name: float(value) for name, value in outcome.gauges.items()}
        return own | feature_gauges(collectives.all_rows(outcome.features.detach().float()))

    def _update(self, samples: int) -> None:
        self.optimizer.step()
        self.adaptation.after_step()
        self.objective.after_step()
        self.samples += samples
        self.refused_in_a_row = 0

    def _guarded(self, gauges: Mapping[str, float]) -> str:
        """Roll the networks back where they have collapsed, and return why; otherwise copy them when it is time.

        Only the networks go back. Pairs, scores, budget and generator stay, so that no pair is lost or received twice, and the
        next steps differ from those that led here. Snapshots are taken by steps and not with commits, which are taken by the
        clock, so that a replay rolls back at the same steps. The moments of the optimiser belong to the collapse and are reset.
        """
        why = self.guard.observe(self.steps, gauges)
        if why:
            self.go_back(self._snapshots[0])
            self.guard.rolled_back(self.steps)
        elif self.guard.wants_snapshot(self.steps):
            self._snapshots = [self._snapshots[-1], self._snapshot()]
        return why

    def judge(self, answers: Answers, *, may_go_back: bool = True) -> Judgement | None:
        """Compare a probe of the present networks with that of the start, where the settings ask for it.

        Networks that are not worse are kept; those that are worse too often in a row go back to the ones kept last, if they may.
        """
        found = self.forgetting.observe(self.steps, answers) if self.forgetting.watches else None
        if found is None:
            return None
        if not found.is_worse:
            self.fine = self._snapshot()
        elif found.goes_back and may_go_back and self.fine is not None:
            self.go_back(self.fine)
            self._snapshots = [self._snapshot() | {"step": self.fine["step"]}]  # no tensor stands twice in a checkpoint
            self.forgetting.rolled_back(self.steps)
            return found
        return found._replace(goes_back=False)

    def go_back(self, snapshot: dict[str, Any]) -> None:
        """Give the networks the weights of a snapshot, and begin without moments: they belong to what went wrong."""
        self.objective.load_state_dict(snapshot["objective"])
        self.optimizer.state.clear()
        self._snapshots = [snapshot]

    def require_progress(self, report: StepReport) -> None:
        """Log what went wrong in the last step. Raises Diverged if steps were refused or rolled back too often in a row."""
        names, good_step = report.refused, self._snapshots[0]["step"]
        if names:
            log.error(
                "refused step=%d, a loss or gradient is not finite or a priority below 0, pairs=%s",
                self.steps,
                ",".join(names[:8]),
            )
        if self.refused_in_a_row >= self.config.max_refused_steps:
            raise NonFiniteLoss(
                f"{self.refused_in_a_row} steps in a row were not finite, the last on {len(names)} pairs "
                f"({', '.join(names[:4])}, ...): the weights are those before them; lower schedule.learning_rate or look at "
                "these pairs"
            )
        why = report.rolled_back
        if why:
            log.error("rolled back step=%d to=%d rollbacks=%d: %s", self.steps, good_step, self.guard.rollbacks, why)
        if why and self.guard.gives_up:
            raise Collapsed(
                f"the networks collapsed {self.guard.setbacks} times in a row, the last time because {why}: they are those of "
                f"step {good_step} again; look at the pairs (all alike?), or give another run other temperatures or centring"
            )

    def _snapshot(self) -> dict[str, Any]:
        networks = self.objective.state_dict()
        return {"step": self.steps, "objective": {name: value.detach().clone() for name, value in networks.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Return what is the same in all processes: everything except the generator of views."""
        watched = {"forgetting": self.forgetting.state_dict(), "fine": self.fine} if self.forgetting.watches else {}
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "guard": self.guard.state_dict(),
            "snapshots": self._snapshots,
            "counts": {name: getattr(self, name) for name in _COUNTS},
            **self.adaptation.state_dict(),
            **watched,
        }

    def load_state_dict(self, state: Mapping[str, Any], generator: Tensor | None) -> None:
        """Continue from `state_dict()` and the state of this process's generator; None begins a new one at this step."""
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.guard.load_state_dict(state["guard"])
        self.adaptation.load_state_dict(state)
        if self.forgetting.watches:
            self.forgetting.load_state_dict(state["forgetting"])
            self.fine = state["fine"]
        self._snapshots = state["snapshots"]
        for name in _COUNTS:
            setattr(self, name, state["counts"][name])
        if generator is None:
            self.generator.manual_seed(_seed_of_views(self.config.seed, self.steps))
        else:
            self.generator.set_state(generator.cpu())


def _seed_of_views(seed: int, steps: int) -> int:
    """Return the seed of this process's generator where it begins at this step: a different one for each process and step."""
    if not collectives.number() and not steps:
        return seed
    # Not by addition: torch's generator on the CPU takes only the lower 32 bits.
    return int(np.random.SeedSequence([seed, collectives.number(), steps]).generate_state(1)[0])
