"""Local training: the one SGD loop, its batches, and evaluation."""
