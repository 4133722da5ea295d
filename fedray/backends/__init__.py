"""Where clients run: in this process, or in Ray actors."""
