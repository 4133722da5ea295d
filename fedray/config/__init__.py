"""The experiment spec: sections, YAML loading, sweep spaces, error messages."""
