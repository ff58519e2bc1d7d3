"""How the encoder that a run starts with is adapted: what trains, how fast, and what holds it to its start."""
