"""Chooser: whether commits go into the log singly or in batches, found out by trial. Pure.

Both ways are tried in turn, several times, while there is a crowd, and what each brought in the
median is compared: a single look at each would tell more of the machine's other work than of the
two, and one stall must not decide for a minute. Where they are about equal batches are kept: they
are less work for the server. What was counted before the crowd left is gone on with when it comes
back.
"""

from __future__ import annotations

from enum import Enum
from statistics import median

CROWD = 16
"""Commits on their way at once from where on it matters which way is faster."""
SETTLE_S = 0.05
"""After a change of ways, in seconds: what is on its way the other way lands."""
LEG_S = 0.15
"""How long one way is counted, in seconds: hundreds of commits even where each is fsynced."""
LEGS = 4
"""Of each way before a verdict."""
CLEAR_LEGS = 2
"""Of each way where one is clearly the faster."""
CLEAR = 1.5
"""It is if each of its legs brought so many times what any of the other did."""
PENALTY = 0.95
"""Batches are kept if they bring at least so much of what single appends do."""
GAP_S = 1.0
"""A leg without a commit for so long, in seconds, is counted anew: the load paused."""
VERDICT_S = 60.0
"""How long a verdict holds, in seconds: a trial of the slower way costs about 1 % then."""
RETRY_S = 0.5
"""Until a trial goes on after the crowd left, in seconds."""
WINDOW_S = 0.05
"""What "lately" is, once or twice, in seconds: several batches, even where each is fsynced."""


class Phase(Enum):
    """What the chooser is at."""

    SETTLED = "settled"
    CHANGED = "changed ways"
    COUNTING = "counting"


class Crowd:
    """How many commits were on their way at once lately.

    Not now: right after a batch landed, or a burst of acknowledgements, hardly any are, and each
    would look like the end of the crowd.
    """

    __slots__ = ("_before", "_ends", "_most")

    def __init__(self) -> None:
        self._most = self._before = 0  # in this window and in the last
        self._ends = 0.0

    def __repr__(self) -> str:
        return f"Crowd({self.size})"

    @property
    def size(self) -> int:
        """The most in this window and the last."""
        return max(self._most, self._before)

    def grow(self, under_way: int) -> None:
        """One more is on its way."""
        self._most = max(self._most, under_way)

    def roll(self, now: float, under_way: int) -> None:
        """Time passed: what was long ago counts no more."""
        if now >= self._ends:
            self._before = self._most if now < self._ends + WINDOW_S else 0
            self._most, self._ends = under_way, now + WINDOW_S


class Chooser:
    """Which way is the better one. Time and counts come from outside."""

    def __init__(self) -> None:
        self.batching: bool = False
        self.phase: Phase = Phase.SETTLED
        self.rates: tuple[float, float] = (0.0, 0.0)
        """Commits a second that the last trial saw: single, in batches."""
        self.crowd: Crowd = Crowd()
        self._verdict = False
        self._until = 0.0
        self._looked = 0.0
        self._began = 0.0
        self._stored = 0
        self._legs: tuple[list[float], list[float]] = ([], [])  # rates: single, in batches

    def __repr__(self) -> str:
        return f"Chooser(batching={self.batching}, {self.phase.value}, rates={self.rates})"

    def look(self, now: float, *, under_way: int, stored: int) -> None:
        """Go on, if it is time: `under_way` commits now, `stored` ones ever since."""
        self.crowd.roll(now, under_way)
        looked, self._looked = self._looked, now
        if now < self._until:
            return
        if now > looked + GAP_S and self.phase is not Phase.SETTLED:
            self._change(now)  # this leg again: nothing was stored for a while
            return
        if self.crowd.size < CROWD:  # what would be counted says nothing
            if self.phase is not Phase.SETTLED:
                self._settle(now + RETRY_S)
            return
        match self.phase:
            case Phase.SETTLED:
                self._change(now)
            case Phase.CHANGED:
                self.phase, self._until = Phase.COUNTING, now + LEG_S
                self._began, self._stored = now, stored
            case Phase.COUNTING:
                self._legs[self.batching].append((stored - self._stored) / (now - self._began))
                self._compare(now)

    def _compare(self, now: float) -> None:
        single, batched = self._legs
        enough = LEGS
        if len(single) >= CLEAR_LEGS and (_clear(single, batched) or _clear(batched, single)):
            enough = CLEAR_LEGS
        if len(single) < enough or len(single) != len(batched):
            self._change(now)
            return
        self.rates = (median(single), median(batched))
        if any(self.rates):  # else nothing was stored, which tells nothing
            self._verdict = self.rates[1] >= PENALTY * self.rates[0]
        self._legs = ([], [])
        self._settle(now + VERDICT_S)

    def _change(self, now: float) -> None:
        """The next leg: batches first, for most logs wait for something."""
        single, batched = self._legs
        self.phase, self.batching = Phase.CHANGED, len(batched) <= len(single)
        self._until = now + SETTLE_S

    def _settle(self, until: float) -> None:
        self.phase, self.batching, self._until = Phase.SETTLED, self._verdict, until


def _clear(more: list[float], less: list[float]) -> bool:
    return min(more) > 0 and min(more) >= CLEAR * max(less)
