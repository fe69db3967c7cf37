"""Moment: a time that somebody types, in ISO 8601 with a time zone, or so long from now."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from ...entities.clock import SystemClock, to_datetime
from .trouble import UsageError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_FROM_NOW = re.compile(r"([0-9]{1,9})([smhd])")


def moment_of(text: str, option: str) -> datetime:
    """A time with its zone. Raises UsageError."""
    return _moment(text, option, "write for instance 2026-01-31T12:00:00Z")


def coming(text: str, option: str) -> datetime:
    """The same, or so long from now by this machine's clock: `90s`, `15m`, `2h`, `3d`.

    Raises UsageError.
    """
    found = _FROM_NOW.fullmatch(text)
    if found is None:
        return _moment(text, option, "write for instance 2026-01-31T12:00:00Z, or 90s, 2h, 3d")
    try:
        return to_datetime(SystemClock().now_ns()) + timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        raise UsageError(f"{option} {text} is beyond all time", "give one that comes") from None


def _moment(text: str, option: str, example: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"not a time: {text[:60]!r}", example) from None
    if moment.tzinfo is None:
        raise UsageError(f"{option} {text} has no time zone", example)
    return moment
