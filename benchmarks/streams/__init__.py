"""What does a stream do to each family of objectives, and what cures it?"""
