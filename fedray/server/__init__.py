"""The outer loop of a run."""
