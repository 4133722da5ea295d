"""Benchmarks are scripts: they find one another in their own folder."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "peers"))
