"""The books of the ledger: what a consumer knows of each device and of each of its epochs. Pure."""
