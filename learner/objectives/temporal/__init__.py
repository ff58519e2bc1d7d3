"""Objectives that learn from time: what comes near, before, after, and where a patch has moved to."""
