"""Recordings as cameras: folders of images, and films. What has times is paired by them, the rest by equal names."""
