"""The simulated camera: a labelled walk through a world with true stereo geometry."""
