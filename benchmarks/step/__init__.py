"""What does a training step cost, and what does the learner add to it?"""
