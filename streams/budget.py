"""The retry budget: how many repeats one client may send. Pure.

A repeat is right when a message was lost, and wrong when its receiver is overloaded: then all
calls of all clients repeat, the repeats are more load, and what still gets done falls far below
what there is capacity for. No single call can tell the two apart, but a client can: lost messages
are few repeats, an overload is about as many as there are calls. So repeats into silence cost a
token of a bucket. It is full at first, so that a failover is as quick as ever when the load was
small, and it fills slowly, so that repeats can't be more than a fraction of a lasting load.

What an overloaded runner doesn't do costs nothing: the server's word that nobody listens, a
runner's that it isn't the owner, and an outcome right after the repeat, which gives its token
back. So after an outage all calls that wait find their new owner, however many they are.
"""

from __future__ import annotations

MOST = 500.0
"""Tokens at most: a client that has so many calls on their way repeats each once, at once."""

PER_CALL = 0.2
"""Tokens for each new call: under a lasting load at most a fifth as many repeats as calls."""

PER_S = 50.0
"""Tokens for each second: a client that makes no new calls still finds its answers in the end,
and a hundred such clients are no load."""


class Budget:
    """Tokens of one client."""

    def __init__(self) -> None:
        self._tokens = MOST
        self._filled_at = 0.0

    def __repr__(self) -> str:
        return f"Budget({self._tokens:.0f} of {MOST:.0f})"

    def call(self) -> None:
        """A new call begins."""
        self._tokens = min(MOST, self._tokens + PER_CALL)

    def give(self) -> None:
        """A repeat was answered with its outcome at once: it was lost messages, no overload."""
        self._tokens = min(MOST, self._tokens + 1)

    def take(self, now: float) -> bool:
        """Whether one repeat may go out at this (loop) time; if so, its token is spent."""
        passed = max(0.0, now - self._filled_at)
        self._tokens = min(MOST, self._tokens + PER_S * passed)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
