"""Run directories: settings, lines of steps and probes, commits and checkpoints."""
