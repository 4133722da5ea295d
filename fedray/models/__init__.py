"""Proxy models: what a spec says of them, and how they are built."""
