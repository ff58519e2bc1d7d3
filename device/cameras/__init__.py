"""The cameras: one file for each kind, and the function that opens one by its name."""
