"""Studies on Ray Tune."""
