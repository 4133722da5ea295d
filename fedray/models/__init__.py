"""Proxy models: their section of the spec, construction, weights and precision."""
