"""The networks that objectives are built from."""
