"""Views: the crops of a pair that an objective learns from."""
