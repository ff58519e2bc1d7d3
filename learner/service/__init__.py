"""The service: it drives the loop on a source, probes, commits, and reports how the run goes."""
