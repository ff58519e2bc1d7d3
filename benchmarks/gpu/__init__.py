"""Is the learner correct on a GPU, how fast is it there, and does it learn? One command answers all three questions."""
