"""Combining the updates of clients into one."""
