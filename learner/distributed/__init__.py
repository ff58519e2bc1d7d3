"""One run in several processes: collective operations, the leading process, and resharding."""
