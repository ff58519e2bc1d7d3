"""Recordings: MCAP files of stereo pairs, written, read and recovered."""
