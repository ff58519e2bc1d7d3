"""Is training during the day better than in nightly batches?"""
