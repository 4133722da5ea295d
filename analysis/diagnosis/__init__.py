"""What a reviewer would say of a study, computed from its tables and written as sentences."""

from analysis.diagnosis.checks import diagnose
from analysis.diagnosis.finding import Finding

__all__ = ["Finding", "diagnose"]
