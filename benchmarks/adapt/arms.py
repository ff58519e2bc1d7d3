"""The ways of the bench to go on from weights, as settings of `python -m learner`."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import replace

from learner.cli.train import COMMAND
from learner.config import LearnerConfig

SCRATCH = "scratch"
_FREE = ("--adapt.anchor-features", "0", "--adapt.anchor-patches", "0")
ARMS: Mapping[str, tuple[str, ...]] = {
    "full": ("--adapt", "full", *_FREE),
    "last": ("--adapt", "last", *_FREE),
    "lora": ("--adapt", "lora", *_FREE),
    "lora+anchor": ("--adapt", "lora"),
    SCRATCH: (),
}
"""The flags of each way; those with `_FREE` do without the frozen second teacher."""


def config_of(arm: str, objective: str, weights: str, holdout: float, more: str) -> LearnerConfig:
    """Return the settings that a person gets with these flags at preset `cpu`.

    `scratch` has the same network at its random start. more: further flags of the learner, as in a shell. Raises SettingsError
    for settings that cannot work; an unknown flag ends the process, as in the learner's own command.
    """
    with tempfile.TemporaryDirectory() as folder:  # a run directory without a run, whose settings would win
        words = ["--preset", "cpu", "--objective", objective, "--encoder.weights", weights, *ARMS[arm]]
        words += [*shlex.split(more), "--holdout", str(holdout), "--run-dir", folder]
        config: LearnerConfig = COMMAND.parse(words).learner
    return at_random(config) if arm == SCRATCH else config


def at_random(config: LearnerConfig) -> LearnerConfig:
    """Return the settings with the same network at its random start."""
    backbone, _, _tag = config.encoder.backbone.partition(".")
    return replace(config, encoder=replace(config.encoder, weights=None, backbone=backbone))
