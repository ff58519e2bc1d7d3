"""Reports: one run, or several compared, as one HTML file."""
