"""Masked images: what is hidden of a view is guessed."""
