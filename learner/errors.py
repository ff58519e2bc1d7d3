"""The errors that stop a learner.

LearnerError                base of this tree; one line that a person can act on
 +- SettingsError           a setting that cannot work, or a run directory made with other settings
 +- Failed                  the run failed, with settings that can work
 |   +- PortInUse           a port or address that cannot be had now, but may be later
 |   +- Diverged            training cannot go on; the weights are the last good ones
 |       +- NonFiniteLoss   several steps in a row had a loss or gradient that is not a number
 |       +- Collapsed       the representation collapsed again after every rollback
 +- ControlError            a control set that cannot be read (`learner.probes.control_sets`)
"""

from __future__ import annotations

from stream.errors import ReportedError


class LearnerError(ReportedError):
    """Base of all errors of `learner`."""


class SettingsError(LearnerError):
    """A setting cannot work; the message says which one, and what would work."""


class Failed(LearnerError):
    """The run failed, with settings that can work."""

    exit_code = 1


class PortInUse(Failed):
    """A port or an address of this machine is taken now, but may be free later."""


class Diverged(Failed):
    """Training cannot go on with these settings and pairs; the weights are the last good ones."""


class NonFiniteLoss(Diverged):
    """Several steps in a row were not finite; the weights are those of the last good step."""


class Collapsed(Diverged):
    """The representation collapsed again after every rollback; the weights are those of the last good snapshot."""


class ControlError(LearnerError):
    """A labelled control set cannot be used."""
