"""Duration: how long, the same everywhere."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TypeAlias

Duration: TypeAlias = timedelta | float
"""A `timedelta`, or seconds. The same everywhere."""


def seconds(duration: Duration) -> float:
    """The duration in seconds; ValueError if it is negative, infinite or not a number."""
    length = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not math.isfinite(length) or length < 0:
        raise ValueError(f"not a duration: {duration!r} (a timedelta or seconds, 0 or more)")
    return length
