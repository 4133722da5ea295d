"""`fedray doctor`: checks a cluster before anything runs on it."""
