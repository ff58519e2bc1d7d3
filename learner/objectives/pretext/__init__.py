"""Objectives that ask for something that was done to an image."""
