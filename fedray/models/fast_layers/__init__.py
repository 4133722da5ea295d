"""Layers that compute what torch's compute, in less time."""
