"""Autoencoders: a whole picture goes through one embedding and comes out again."""
