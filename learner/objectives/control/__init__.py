"""Objectives that learn from what a robot does: a pair, an action and a reward say what the next pair will be."""
