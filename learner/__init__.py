"""The learner: views, objectives, encoder, loop, probes, checkpoints, report."""
