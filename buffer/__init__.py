"""The reservoir. Items are opaque keys; imports nothing of ours."""
