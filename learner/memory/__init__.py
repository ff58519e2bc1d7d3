"""The memory of a learner: consecutive pairs become clips; slots with images, the fresh queue, and the ranking."""
