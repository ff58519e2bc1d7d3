"""The consumers for which a spool keeps pairs: the rules, and the file in which their list survives the process."""
