"""Findings about a study: sentences with numbers, computed from its tables."""

from analysis.diagnosis.checks import diagnose
from analysis.diagnosis.finding import Finding

__all__ = ["Finding", "diagnose"]
