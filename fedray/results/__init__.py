"""The files of a run and of a study: written, checked, copied, read."""
