"""The reservoir, and the durable store of its items. Items are opaque bytes; the package imports none of our other packages."""
