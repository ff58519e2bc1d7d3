"""The spool: kept pairs on the rig's disk until every learner has acknowledged them."""
