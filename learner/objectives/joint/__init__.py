"""Joint embedding: what views of a pair say is compared; there is one file an objective."""
