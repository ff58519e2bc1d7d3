"""The live feed of the original experiment: autoencoders that learn from a camera while it looks."""
