"""The spool: kept pairs on the rig's disk until every consumer has acknowledged them."""
