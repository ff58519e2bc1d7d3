"""Does junk get a high score, so that a buffer ranked by loss fills with it?"""
