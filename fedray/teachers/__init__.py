"""Frozen teachers: their sections of the spec, how they are loaded, and the cache of their outputs."""
