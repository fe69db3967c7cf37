"""The entropy port: the only way to randomness.

Identifiers, nonces and jitter come from an `Entropy`, so that a simulation can seed it. No other
module of the project imports `random`, `secrets` or `uuid`; a test holds that.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
from typing import Protocol

POOL_BYTES = 1024
"""Asked of the system at once: a system call for each token took a hundredth of a command."""


_forks = 0
"""How often this process, or one that it comes from, was forked since this was imported. Only by
Python: a fork in C goes past its hooks, and has to be followed by an exec."""


def _forked() -> None:
    global _forks
    _forks += 1


if sys.platform != "win32":  # where nothing forks
    os.register_at_fork(after_in_child=_forked)


class Entropy(Protocol):
    """Gives random values."""

    def token(self, size: int) -> str:
        """`size` random bytes as `2 * size` lower-case hexadecimal digits."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A random number from `low` to `high`."""
        ...


class SystemEntropy:
    """The operating system's randomness; its tokens can't be guessed. One is for one thread."""

    def __init__(self) -> None:
        self._random = random.Random()  # seeded by the system; for jitter, which may be guessed
        self._pool = ""  # of the system's randomness, as digits; each is given out once
        self._at = 0  # the first that wasn't
        self._forks = _forks

    def token(self, size: int) -> str:
        """`size` random bytes as `2 * size` lower-case hexadecimal digits."""
        begin, end = self._at, self._at + 2 * size
        if end > len(self._pool) or self._forks != _forks:  # a fork has the same pool
            self._pool, self._forks = secrets.token_hex(max(size, POOL_BYTES)), _forks
            begin, end = 0, 2 * size
        self._at = end
        return self._pool[begin:end]

    def uniform(self, low: float, high: float) -> float:
        """A random number from `low` to `high`."""
        return low + (high - low) * self._random.random()
