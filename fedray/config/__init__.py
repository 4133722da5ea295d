"""The spec of an experiment or a space: its sections, how a file is loaded, and error messages."""
