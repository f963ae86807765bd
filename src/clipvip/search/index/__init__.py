"""The write side of a library: which files there are, what is indexed of them, and how that changes."""
