"""The weather of one world: which messages get lost, late or repeated, all drawn from one seed.

Each world has its own climate (swarm testing): some faults are frequent, others absent, so that a
rare combination isn't always hidden behind a more frequent one. `calm` ends all of it; then every
promise must be kept within bounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

STORED = ("append", "append batch", "tell")
"""What waits for a disk."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one request and to its answer."""

    request_lost: bool
    answer_lost: bool
    there_s: float
    back_s: float


@dataclass(frozen=True, slots=True)
class Climate:
    """How often what goes wrong, as probabilities; drawn once for a world."""

    loss: float
    slow: float
    slow_s: float
    repeat: float
    gap: float
    stale: float
    lost_acks: float
    staged: float  # batches whose end is late
    sync_s: float  # no fault: how long a disk takes to store

    @staticmethod
    def draw(random: Random) -> Climate:
        """Some climate."""
        pick = random.choice
        return Climate(
            loss=pick([0.005, 0.01, 0.03, 0.08]),
            slow=pick([0.0, 0.01, 0.05]),
            slow_s=pick([0.3, 1.0, 4.0]),
            repeat=pick([0.0, 0.02, 0.1]),
            gap=pick([0.0, 0.01, 0.05]),
            stale=pick([0.0, 0.2, 0.6]),
            lost_acks=pick([0.0, 0.05, 0.3]),
            staged=pick([0.0, 0.1, 0.5]),
            sync_s=pick([0.0, 0.01, 0.05, 0.15]),
        )


class Weather:
    """Decides about single messages, and counts what it did."""

    def __init__(self, random: Random, climate: Climate, now_s: Callable[[], float]) -> None:
        self.climate = climate
        self.stalled_until = 0.0  # the streams have no leader: nothing is stored or read
        self._now_s = now_s
        self.calm = False
        self.counts: Counter[str] = Counter()
        self._random = random

    @property
    def faults(self) -> int:
        """How many faults there were so far."""
        return sum(self.counts.values())

    def note(self, what: str) -> None:
        """A fault happened."""
        self.counts[what] += 1

    def strikes(self, probability: float, what: str) -> bool:
        """Whether a fault happens now."""
        if self.calm or probability <= 0 or self._random.random() >= probability:
            return False
        self.counts[what] += 1
        return True

    def delay_s(self) -> float:
        """How long one message takes: fractions of a millisecond, sometimes seconds."""
        if not self.calm and self.climate.slow and self._random.random() < self.climate.slow:
            self.counts["late"] += 1
            return self._random.uniform(0.05, self.climate.slow_s)
        return 0.0002 + 0.0018 * self._random.random()

    def fate(self, what: str) -> Fate:
        """What happens to a request."""
        request_lost = self.strikes(self.climate.loss / 2, f"request lost: {what}")
        answer_lost = not request_lost and self.strikes(
            self.climate.loss / 2, f"answer lost: {what}"
        )
        there_s = self.delay_s() + (self.climate.sync_s if what in STORED else 0.0)
        if self.stalled_until > self._now_s():
            self.note("stalled")
            there_s += self.stalled_until - self._now_s()
        return Fate(request_lost, answer_lost, there_s, self.delay_s())

    def lost(self, what: str) -> bool:
        """Whether a message that nobody waits for gets lost."""
        return self.strikes(self.climate.loss, f"lost: {what}")
