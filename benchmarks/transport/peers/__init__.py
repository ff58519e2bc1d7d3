"""The ways to send a stereo pair over TCP, ours and others'. Each is used in the few lines that its documentation recommends."""
