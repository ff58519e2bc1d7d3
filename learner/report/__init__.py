"""Reports: one run, or several runs compared, as one HTML file."""
