"""Look: what a runner is like at one moment, for probes and for metrics."""

from __future__ import annotations

from typing import NamedTuple

from ..durable.stats import RunnerStats
from .readiness import Check


class Look(NamedTuple):
    """A runner at one moment. No statistics: there is no runner yet."""

    stats: RunnerStats | None
    checks: tuple[Check, ...]
