"""How many rigs can one learner receive?"""
