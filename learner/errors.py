"""What stops a learner.

LearnerError                base of this tree; one line that a person can act on
 +- SettingsError           a setting that cannot work, or a run directory made with others
 +- NonFiniteLoss           several steps in a row had a loss or gradient that is not a number
 +- ControlError            a control set that cannot be read (`learner.control`)
"""

from __future__ import annotations


class LearnerError(Exception):
    """Base of all errors of `learner`."""


class SettingsError(LearnerError):
    """A setting that cannot work; the message says which one and what would."""


class NonFiniteLoss(LearnerError):
    """Several steps in a row were not finite; the weights are those of the last good step."""


class ControlError(LearnerError):
    """A labelled control set that cannot be used."""
