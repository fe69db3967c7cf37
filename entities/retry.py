"""Retry: how often to try again, and how long to wait before it.

The policy is data and the wait a pure function; who sleeps and who draws the jitter is elsewhere.
"""

from __future__ import annotations

import msgspec

from .duration import Duration, seconds


class Retry(msgspec.Struct, frozen=True):
    """How often something is tried, and how long to wait between.

    Raises ValueError when a number makes no sense.
    """

    attempts: int = 5
    """How often it is tried in all, the first time included; 1 or more."""
    base: Duration = 0.1
    """The wait after the first attempt, in seconds or as a `timedelta`."""
    factor: float = 2.0
    """By what the wait grows with each attempt; 1 or more."""
    longest: Duration = 60.0
    """The wait never grows beyond this: without a bound the 20th attempt would wait a day."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense, naming the field."""
        if self.attempts < 1:
            raise ValueError(f"Retry.attempts is {self.attempts}, not 1 or more")
        if not self.factor >= 1:
            raise ValueError(f"Retry.factor is {self.factor}, not 1 or more")
        for name in ("base", "longest"):
            try:
                seconds(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"Retry.{name}: {error}") from None


def delay_s(policy: Retry, attempt: int, jitter: float) -> float:
    """How many seconds to wait after the `attempt`th try (1, 2, ...) failed.

    `jitter` from 0 to 1 spreads the wait from a half to the whole of the policy's, so that callers
    who failed together don't come back together. Whether another try is due is the caller's
    question: `attempt < policy.attempts`. ValueError for an attempt below 1 or a jitter outside.
    """
    if attempt < 1 or not 0 <= jitter <= 1:
        raise ValueError(f"attempt {attempt} or jitter {jitter} is out of range")
    longest = seconds(policy.longest)
    try:
        whole = min(longest, seconds(policy.base) * policy.factor ** (attempt - 1))
    except OverflowError:
        whole = longest
    return whole * (0.5 + 0.5 * jitter)
