"""Signals in recordings: in ours a topic each, in those of ROS the messages that have a meaning here."""
