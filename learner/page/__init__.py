"""The live page: what a person sees of a running learner, in the order in which a person asks."""
