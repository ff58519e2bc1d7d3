"""Views of clips: what is the same for all pairs of a clip, and patches that are followed through it."""
