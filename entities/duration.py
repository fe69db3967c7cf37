"""Duration: how long, the same everywhere."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, TypeAlias, cast

Duration: TypeAlias = timedelta | float
"""A `timedelta`, or seconds. The same everywhere."""


def seconds(duration: Duration) -> float:
    """The duration in seconds; ValueError if it is negative, infinite, text or else none."""
    given: Any = cast("Any", duration)  # the annotation binds no caller
    if not isinstance(given, (timedelta, int, float)):  # such as text, which float() would take
        raise ValueError(f"not a duration: {given!r} (a timedelta or seconds, 0 or more)")
    length = given.total_seconds() if isinstance(given, timedelta) else float(given)
    if not math.isfinite(length) or length < 0:
        raise ValueError(f"not a duration: {duration!r} (a timedelta or seconds, 0 or more)")
    return length
