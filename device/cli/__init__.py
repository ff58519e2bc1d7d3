"""The commands of `python -m device`."""
