"""Sockets between a rig and a learner: addresses, keys, handshakes and messages."""
