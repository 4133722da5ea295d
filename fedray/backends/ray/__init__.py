"""Workers in Ray actors."""
