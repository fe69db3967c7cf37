"""Lets the tests import the examples as their programs do: from their own folders."""

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
FLIGHTS = EXAMPLES / "flights"
ORDERS = EXAMPLES / "orders"
sys.path[:0] = [str(FLIGHTS), str(ORDERS)]  # both have a demo.py: it is the one of flights
sys.path.append(str(EXAMPLES))


@pytest.fixture
def outside_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world of its own outside of the shop."""
    file = tmp_path / "outside.db"
    monkeypatch.setenv("ORDERS_OUTSIDE", str(file))
    return file
