"""Data: where images come from, how they are divided among clients, how they are viewed."""
