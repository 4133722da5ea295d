"""Frozen teachers: what a spec says of them, how they are loaded, and the bank of their answers."""
