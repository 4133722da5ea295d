"""Sweeps: many runs of one space."""
