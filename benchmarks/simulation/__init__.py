"""A rig and its consumers as rules alone, without threads, files or clocks, under a million random faults."""
