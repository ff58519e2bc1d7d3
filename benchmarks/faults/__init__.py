"""Is a pair ever lost or learned twice? Faults of real processes, and the backfill's share of a slow link."""
