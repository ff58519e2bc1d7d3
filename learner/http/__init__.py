"""The HTTP port of the learner, served in a thread of its own: access, bounded connections, health, metrics and weights."""
