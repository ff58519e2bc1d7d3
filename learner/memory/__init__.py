"""The memory of a learner: slots with images, the fresh queue, and the ranking that decides which pairs stay."""
