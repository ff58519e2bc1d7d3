"""The commands of `python -m stream`: record, replay, info, recover, keys."""
