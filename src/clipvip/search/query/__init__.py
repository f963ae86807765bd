"""The read side of a library: what can be asked of it, and how it is answered."""
