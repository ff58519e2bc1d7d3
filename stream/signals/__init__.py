"""What a rig measures beside its images: named vectors of numbers with their own times. Pure."""
