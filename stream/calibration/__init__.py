"""Calibration: cameras as files describe them, rectified images, and how far rows are apart without any of it."""
