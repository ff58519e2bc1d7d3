"""The commands of `python -m learner`."""
