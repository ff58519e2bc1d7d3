"""What a learner remembers: slots with images, the fresh queue, and the ranking that decides which pairs stay."""
