"""Is it right on a graphics card, how fast is it there, and does it learn? One command that does it all by itself."""
