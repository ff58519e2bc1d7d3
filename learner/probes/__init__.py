"""Probes: what a frozen representation is worth, with labels and without."""
