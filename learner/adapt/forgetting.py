"""The guard against forgetting: it compares the control sets with those of the start, image by image. Pure.

For each control set, an image counts 1 if k-NN was right about it at the start and is wrong now, -1 the other way round, 0 else;
the mean over the images is the accuracy that was lost, and its standard error is that of a paired comparison (McNemar 1947), much
smaller than that of two accuracies apart. Over several sets the mean of their losses counts, and of several encoders the worst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from learner.bounds import Bound, NotNegative, PositiveShare, Share, check_bounds

Answers = Mapping[tuple[str, str], NDArray[np.bool_]]
"""Whether k-NN is right about each test image, bool [M], by control set (`ControlSet.identity`) and encoder."""
_COUNTS = ("worse_in_a_row", "since", "rollbacks")


@dataclass(frozen=True, kw_only=True)
class ForgettingConfig:
    """When control sets count as forgotten, and what happens then; `--adapt` switches it on (docs/adapting.md)."""

    patience_probes: Annotated[int, Bound(ge=0)] = 0
    """Probes in a row below the start after which the networks go back; 0: nobody watches."""
    max_loss: Share = 0.01
    """Accuracy of k-NN that may be lost, 0 to 1, as the mean of the control sets."""
    max_errors: NotNegative = 2.0
    """Paired standard errors by which a loss must differ from 0 to count."""
    rate_after_rollback: PositiveShare = 0.5
    """Factor of the learning rate for each rollback, for the rest of the run, after a new warm-up."""

    def __post_init__(self) -> None:
        check_bounds(self, "forgetting")


class Judgement(NamedTuple):
    """What a probe says of the networks, compared with the start."""

    encoder: str
    """The one that lost most."""
    loss: float
    """Accuracy that it lost, 0 to 1; below 0 it gained."""
    error: float
    """The paired standard error of the loss."""
    is_worse: bool
    goes_back: bool
    """Whether it was worse so many times in a row that the networks go back."""

    def __str__(self) -> str:
        points = f"{abs(100 * self.loss):.1f} points {'below' if self.loss > 0 else 'above'} the start"
        return f"the control sets of the {self.encoder} are {points} (standard error {100 * self.error:.1f})"


@dataclass
class ForgettingGuard:
    """Remembers the answers of the start, and counts probes below it and rollbacks."""

    config: ForgettingConfig
    worse_in_a_row: int = 0
    since: int = 0
    """The step of the last rollback."""
    rollbacks: int = 0
    last: Judgement | None = None
    """The last judgement of this process."""
    judged_step: int | None = None
    """The step of the last probe; None: there was none, or an earlier version did not write it down."""
    _start: dict[tuple[str, str], NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def watches(self) -> bool:
        """Whether there is anything to do."""
        return self.config.patience_probes > 0

    def observe(self, step: int, answers: Answers) -> Judgement | None:
        """Record the answers of a probe; those at step 0 are the start's. None: no set was measured at the start too."""
        self.judged_step = step
        if step == 0:
            self._start = dict(answers)
        sets: dict[str, list[tuple[float, float]]] = {}
        for key, right in answers.items():
            before = self._answers_of_start(*key)
            if before is not None and before.shape == right.shape:  # a set of another size is another set
                sets.setdefault(key[1], []).append(_lost(before, right))
        judged = [self._judged(encoder, lost) for encoder, lost in sets.items()]
        if not judged:
            return None
        worst = max(judged, key=lambda one: (one.is_worse, one.loss))
        self.worse_in_a_row = self.worse_in_a_row + 1 if worst.is_worse else 0
        self.last = worst._replace(goes_back=self.worse_in_a_row >= self.config.patience_probes)
        return self.last

    @property
    def has_start(self) -> bool:
        """Whether any control set was measured at the start; without one nothing is compared."""
        return self.watches and bool(self._start)

    def knows(self, control: str) -> bool:
        """Return whether a control set was measured at the start."""
        return any(self._answers_of_start(control, encoder) is not None for _, encoder in self._start)

    def _answers_of_start(self, control: str, encoder: str) -> NDArray[np.bool_] | None:
        name = control.partition(" ")[0]  # earlier versions knew sets by their names alone
        return self._start.get((control, encoder), self._start.get((name, encoder)))

    def _judged(self, encoder: str, lost: list[tuple[float, float]]) -> Judgement:
        losses, variances = zip(*lost, strict=True)
        loss, error = float(np.mean(losses)), float(np.sqrt(np.sum(variances)) / len(lost))
        is_worse = loss > self.config.max_loss and loss > self.config.max_errors * error
        return Judgement(encoder, loss, error, is_worse, False)

    def rolled_back(self, step: int) -> None:
        """Record that the networks went back after this step."""
        self.worse_in_a_row, self.since = 0, step
        self.rollbacks += 1

    @property
    def rate_factor(self) -> float:
        """The factor of the learning rate, in (0, 1]."""
        return self.config.rate_after_rollback**self.rollbacks

    def figures(self) -> dict[str, Any]:
        """Return what a summary says of it; nothing where it does not watch."""
        if not self.watches:
            return {}
        last = (
            {}
            if self.last is None
            else {"encoder": self.last.encoder, "loss": self.last.loss, "error": self.last.error}
        )
        return {"forgetting": {"rollbacks": self.rollbacks, **last}}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        start = [[control, encoder, right] for (control, encoder), right in self._start.items()]
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {"start": start, "judged_step": self.judged_step} | counts

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._start = {(control, encoder): right for control, encoder, right in state["start"]}
        self.judged_step = state.get("judged_step")
        for name in _COUNTS:
            setattr(self, name, state[name])


def _lost(before: NDArray[np.bool_], now: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the accuracy that was lost on a set, and the variance of that mean."""
    lost = before.astype(np.float64) - now
    return float(lost.mean()), float(lost.var(ddof=1) / len(lost)) if len(lost) > 1 else 0.0
