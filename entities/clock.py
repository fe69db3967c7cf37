"""The clock port: the only way to the time.

Everything that needs the time is given a `Clock`, so that a simulation can own it. No other module
of the project imports `time` or asks `datetime` for now; a test holds that.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """Tells the time. It may stand still, jump, or go back: safety never depends on it."""

    def now_ns(self) -> int:
        """Unix time in nanoseconds."""
        ...


class SystemClock:
    """The machine's clock; the only place that reads it."""

    def now_ns(self) -> int:
        """Unix time in nanoseconds."""
        return time.time_ns()


def to_datetime(ns: int) -> datetime:
    """Unix nanoseconds as an aware UTC datetime, cut to the microseconds that it can hold.

    Raises OverflowError before the year 1 and after 9999.
    """
    return _EPOCH + timedelta(microseconds=ns // 1_000)


def of_ms(unix_ms: int) -> datetime:
    """Unix milliseconds as an aware UTC datetime. Raises as `to_datetime` does."""
    return to_datetime(unix_ms * 1_000_000)


def to_ns(moment: datetime) -> int:
    """An aware datetime as Unix nanoseconds, exactly; ValueError for one without a time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: use datetime.now(timezone.utc)")
    return (moment - _EPOCH) // _MICROSECOND * 1_000


def ahead_s(before_ns: int, there_ns: int, after_ns: int) -> float:
    """By how many seconds our clock is ahead of another one at least (behind: negative).

    The other one was read between two looks at ours. However long that took, or this process was
    held up meanwhile, the difference isn't smaller than this.
    """
    if before_ns > there_ns:
        return (before_ns - there_ns) / 1e9
    return min(0, after_ns - there_ns) / 1e9
