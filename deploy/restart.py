"""Restart: what to do about a worker process that ended. Decisions only; `supervisor.py` acts.

A worker that dies is started again, later and later while it keeps dying. One that was not
understood (exit code 2) before any of them ever hosted would not be understood the next time
either: they all have the same APP and settings. Once one has hosted, the same code means that
something changed beneath it, as a deployment that is half done, and that can pass.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from ..entities.retry import Retry, delay_s

BACKOFF = Retry(base=0.5, factor=2.0, longest=10.0)
"""How long to wait before a worker is started again; without end, so `attempts` isn't asked. Half
a second, as whatever killed it may take that long to pass and a start takes as long; ten, so that
it is back soon after a repair. Eight workers that die at once cost a start a second then."""

STEADY_S = 30.0
"""A worker that hosted so long, in seconds, was all right: its next end counts as the first."""

USAGE_EXIT = 2
"""The exit code of what was not understood: APP, options or settings."""


@dataclass(frozen=True)
class Ended:
    """How a worker ended by itself."""

    code: int | None
    """Its exit code; a signal's number, negative; None if the process could not be made."""
    hosted_s: float | None
    """How long it hosted, in seconds; None if it never did."""

    def __str__(self) -> str:
        if self.code is None:
            return "could not be started"
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        return f"was ended by {_signal(-self.code)}"


def failures(before: int, ended: Ended) -> int:
    """How many times a worker has ended in a row, this time included."""
    steady = ended.hosted_s is not None and ended.hosted_s >= STEADY_S
    return 1 if steady else before + 1


def wait_s(failures: int, jitter: float) -> float:
    """How many seconds to wait before the next start; `jitter` is from 0 to 1."""
    return delay_s(BACKOFF, failures, jitter)


def is_final(ended: Ended, *, hosted: bool) -> bool:
    """Whether to give up; `hosted`: whether any of the workers ever was ready."""
    return ended.code == USAGE_EXIT and not hosted


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
