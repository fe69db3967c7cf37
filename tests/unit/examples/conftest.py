"""Lets the tests import the example as its programs do: from its own folder."""

import sys
from pathlib import Path

FLIGHTS = Path(__file__).parents[3] / "examples" / "flights"
sys.path.insert(0, str(FLIGHTS))
