"""The objectives, one file each: those of version 0.1.0 here, the others in `joint/` and `masked/`."""
