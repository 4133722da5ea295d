"""What a reviewer would say of a study, computed from its tables and written as sentences."""

from analysis.diagnosis.finding import Finding
from analysis.diagnosis.signatures import diagnose

__all__ = ["Finding", "diagnose"]
