"""What do weights that somebody has gain on a stream, and what do they forget, by the way in which they are adapted?"""
