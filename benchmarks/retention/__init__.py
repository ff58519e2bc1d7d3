"""Does it matter which pairs a learner remembers?"""
