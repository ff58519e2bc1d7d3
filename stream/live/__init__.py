"""The live stream and its backfill: publisher, subscriber, and the ledger of received and missing pairs."""
