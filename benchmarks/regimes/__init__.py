"""Is continuous training better than nightly batches?"""
