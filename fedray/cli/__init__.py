"""The command `fedray`."""
