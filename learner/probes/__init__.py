"""Probes: measurements of frozen features, with labels and without."""
