"""Lets the tests import the benchmarks, which are no part of the package."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT))
