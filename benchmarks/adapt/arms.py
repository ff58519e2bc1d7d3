"""The ways of the bench to go on from weights, as settings of `python -m learner`."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import replace

from learner.cli.train import COMMAND
from learner.config import LearnerConfig
from learner.errors import SettingsError

SCRATCH = "scratch"
_FREE = ("--adapt.anchor-features", "0", "--adapt.anchor-patches", "0")
ARMS: Mapping[str, tuple[str, ...]] = {
    "full": ("--adapt", "full", *_FREE),
    "last": ("--adapt", "last", *_FREE),
    "lora": ("--adapt", "lora", *_FREE),
    "full+anchor": ("--adapt", "full"),
    "lora+anchor": ("--adapt", "lora"),
    SCRATCH: (),
}
"""The flags of each way; those with `_FREE` do without the frozen second teacher."""


def config_of(arm: str, objective: str, weights: str | None, holdout: float, more: str) -> LearnerConfig:
    """Return the settings that a person gets with these flags at preset `cpu`.

    `scratch` has the same network at its random start. weights: None: not there yet. more: further flags of the learner, as in a
    shell. Raises SettingsError for settings that cannot work; an unknown flag ends the process, as in the learner's own command.
    """
    try:
        further = shlex.split(more)
    except ValueError as error:
        raise SettingsError(f"--learner {more}: {error}: write the flags as in a shell") from error
    with tempfile.TemporaryDirectory() as folder:  # a run directory without a run, whose settings would win
        begins = [] if weights is None else ["--encoder.weights", weights]
        words = ["--preset", "cpu", "--objective", objective, *begins, *ARMS[arm], *further]
        words += ["--holdout", str(holdout), "--run-dir", folder]
        config: LearnerConfig = COMMAND.parse(words).learner
    # The name of the backbone stays whole: its tag decides by which mean pixels are normalised, also those of the start.
    return replace(config, encoder=replace(config.encoder, weights=None)) if arm == SCRATCH else config
