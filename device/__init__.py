"""The rig: cameras, the simulated world, dedupe and the capture loop."""
