"""The entropy port: the only way to randomness.

Identifiers, nonces and jitter come from an `Entropy`, so that a simulation can seed it. No other
module of the project imports `random`, `secrets` or `uuid`; a test holds that.
"""

from __future__ import annotations

import random
import secrets
from typing import Protocol


class Entropy(Protocol):
    """Gives random values."""

    def token(self, size: int) -> str:
        """`size` random bytes as `2 * size` lower-case hexadecimal digits."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A random number from `low` to `high`."""
        ...


class SystemEntropy:
    """The operating system's randomness; its tokens can't be guessed."""

    def __init__(self) -> None:
        self._random = random.Random()  # seeded by the system; for jitter, which may be guessed

    def token(self, size: int) -> str:
        """`size` random bytes as `2 * size` lower-case hexadecimal digits."""
        return secrets.token_hex(size)

    def uniform(self, low: float, high: float) -> float:
        """A random number from `low` to `high`."""
        return self._random.uniform(low, high)
