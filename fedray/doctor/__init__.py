"""`fedray doctor`: what is wrong with a cluster, told before anything runs on it."""
