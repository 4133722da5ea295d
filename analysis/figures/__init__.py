"""Figures from DataFrames; None if the data holds nothing to draw."""
