"""Other ways to send a stereo pair over TCP, each in the few lines its own documentation asks for, and ours among them."""
