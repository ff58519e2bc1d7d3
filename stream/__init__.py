"""The stereo pair and its transport: codec, live stream and backfill, keys, recordings. This package never imports torch."""
