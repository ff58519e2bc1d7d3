"""The printed board by which two cameras are calibrated: how it looks, which views of it are useful, and what they say. Pure."""
