"""Does junk score high, so that a buffer ranked by loss fills with it?"""
