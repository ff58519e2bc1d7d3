"""The service: drives the loop beside a live rig and says how it goes."""
