"""The collapse guard decides from the gauges of each step when the networks go back to earlier ones. Pure.

A collapsed teacher gives every pair the same target, uniform, one-hot or between; a collapsed student gives every pair the same
output. Neither entropy nor rank shows it (a healthy teacher may be one-hot, a random network has a high rank), but information
does. With H the entropy and p the targets [B, K] of a batch:

    teacher_information = H(mean p) - mean H(p)       what a target says about its pair (Krause et al. 2010, RIM, section 2)
    student_information = teacher_information - KL    the part of it that the student knows; 0 if its output is constant

as shares of ln min(B, K), the largest possible value. Where B is far below K, student_information reads too low. So it counts
only where the crops of a pair have also become one point. A gauge that an objective does not have is not used. For every
objective the features themselves must differ between pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from learner.errors import SettingsError

_COUNTS = ("doubt", "since", "rollbacks", "setbacks")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """When the networks count as collapsed, and what happens then; `docs/log.md` has the runs behind the numbers."""

    min_teacher_information: float = 0.05
    """Teacher information below which a step has a sign of collapse; healthy runs stay above 0.15."""
    min_student_information: float = 0.01
    """Student information below which a step has a sign of collapse, if crop_cosine is also above its maximum."""
    max_crop_cosine: float = 0.99
    """Mean cosine between the crops of a pair above which they count as one point."""
    max_feature_cosine: float = 0.999
    """Mean cosine between the features of two pairs above which they count as one point, for every objective."""
    patience_steps: int = 200
    """Steps with a sign, minus steps without, that make a collapse: a random start shows signs for some tens of steps."""
    snapshot_every_steps: int = 250
    """Steps between two copies of the networks, made only while doubt is 0. A rollback takes the last copy but one."""
    rate_after_rollback: float = 0.5
    """Factor of the learning rate for each rollback in a row, after a new warm-up."""
    forgiven_after_steps: int = 2000
    """Steps after a rollback after which it no longer counts and the learning rate is whole again."""
    max_rollbacks: int = 3
    """Rollbacks in a row; the next collapse stops the learner, because its settings or its pairs must be wrong."""

    def __post_init__(self) -> None:
        shares = (
            self.min_teacher_information,
            self.min_student_information,
            self.max_crop_cosine,
            self.max_feature_cosine,
        )
        if not all(0 <= share <= 1 for share in shares):
            raise SettingsError(f"guard: informations and cosine must be in [0, 1], got {self}")
        if not 0 < self.rate_after_rollback <= 1 or self.max_rollbacks < 0:
            raise SettingsError(
                f"guard: rate_after_rollback must be in (0, 1] and max_rollbacks at least 0, got {self}"
            )
        if min(self.patience_steps, self.snapshot_every_steps, self.forgiven_after_steps) < 1:
            raise SettingsError(f"guard: patience_steps and the other steps must be at least 1, got {self}")


@dataclass
class CollapseGuard:
    """Counts signs of collapse and rollbacks."""

    config: GuardConfig
    doubt: int = 0
    """Steps with a sign minus steps without, at least 0."""
    since: int = 0
    """The step at which training began, or of the last rollback."""
    rollbacks: int = 0
    setbacks: int = 0
    """Rollbacks in a row."""

    def observe(self, step: int, gauges: Mapping[str, float]) -> str:
        """Record the gauges of a finished step. Returns why the networks count as collapsed, empty while they do not."""
        why = sign_of_collapse(self.config, gauges)
        self.doubt = self.doubt + 1 if why else max(0, self.doubt - 1)
        if self.setbacks and step - self.since >= self.config.forgiven_after_steps:
            self.setbacks = 0
        return why if self.doubt >= self.config.patience_steps else ""

    def wants_snapshot(self, step: int) -> bool:
        """Return whether to copy the networks after this step. It depends on its number, so that a replay does the same."""
        return self.doubt == 0 and step % self.config.snapshot_every_steps == 0

    def rolled_back(self, step: int) -> None:
        """Record that the networks went back after this step."""
        self.doubt, self.since = 0, step
        self.rollbacks += 1
        self.setbacks += 1

    @property
    def doubt_ratio(self) -> float:
        """How near a rollback is: 0 without a sign of collapse, 1 when the networks go back."""
        return min(1.0, self.doubt / self.config.patience_steps)

    @property
    def gives_up(self) -> bool:
        """Whether there were more rollbacks in a row than are allowed."""
        return self.setbacks > self.config.max_rollbacks

    @property
    def rate_factor(self) -> float:
        """The factor of the learning rate, in (0, 1]."""
        return self.config.rate_after_rollback**self.setbacks

    def state_dict(self) -> dict[str, int]:
        """Return the state for a checkpoint."""
        return {name: getattr(self, name) for name in _COUNTS}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from `state_dict()`."""
        for name in _COUNTS:
            setattr(self, name, state[name])


def sign_of_collapse(config: GuardConfig, gauges: Mapping[str, float]) -> str:
    """Describe the sign of collapse in the gauges of one step; empty if there is none."""
    if gauges.get("teacher_information", 1.0) < config.min_teacher_information:
        return "the teacher's target is the same for every pair"
    knows = gauges.get("student_information", 1.0) >= config.min_student_information
    if not knows and gauges.get("crop_cosine", 0.0) > config.max_crop_cosine:
        return "the student's output is the same for every pair"
    if gauges.get("feature_cosine", 0.0) > config.max_feature_cosine:
        return "the features are the same for every pair"
    return ""
