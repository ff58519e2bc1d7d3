"""From how many rigs can one learner receive?"""
