"""Figures from DataFrames. A figure that the data has nothing for is None."""
