"""Chooser: whether commits go into the log singly or in batches, found out by trial. Pure.

Both ways are tried in turn, several times, while there is a crowd, and what each brought in all is
compared: a single look at each would tell more of the machine's other work than of the two. Where
they are about equal batches are kept: they are less work for the server. What was counted before
the crowd left is gone on with when it comes back.
"""

from __future__ import annotations

from enum import Enum

CROWD = 16
"""Commits on their way at once from where on it matters which way is faster."""
SETTLE_S = 0.05
"""After a change of ways, in seconds: what is on its way the other way lands."""
LEG_S = 0.15
"""How long one way is counted, in seconds: hundreds of commits even where each is fsynced."""
LEGS = 4
"""Of each way before a verdict."""
CLEAR = 1.5
CLEAR_LEGS = 2
"""After so many of each way already, where one brings so many times what the other does."""
PENALTY = 0.9
"""Batches are kept if they bring at least so much of what single appends do."""
GAP_S = 1.0
"""A leg without a commit for so long, in seconds, is counted anew: the load paused."""
VERDICT_S = 60.0
"""How long a verdict holds, in seconds: a trial of the slower way costs about 1 % then."""
RETRY_S = 0.5
"""Until a trial goes on after the crowd left, in seconds."""


class Phase(Enum):
    """What the chooser is at."""

    SETTLED = "settled"
    CHANGED = "changed ways"
    COUNTING = "counting"


class Chooser:
    """Which way is the better one. Time and counts come from outside."""

    def __init__(self) -> None:
        self.batching: bool = False
        self.phase: Phase = Phase.SETTLED
        self.rates: tuple[float, float] = (0.0, 0.0)
        """Commits a second that the last trial saw: single, in batches."""
        self._verdict = False
        self._until = 0.0
        self._looked = 0.0
        self._began = 0.0
        self._stored = 0
        self._counts = [0, 0]  # commits: single, in batches
        self._seconds = [0.0, 0.0]
        self._legs = 0

    def __repr__(self) -> str:
        return f"Chooser(batching={self.batching}, {self.phase.value}, rates={self.rates})"

    def look(self, now: float, *, waiting: int, stored: int) -> None:
        """Go on, if it is time: `waiting` commits on their way, `stored` ones ever since."""
        looked, self._looked = self._looked, now
        if now < self._until:
            return
        if now > looked + GAP_S and self.phase is not Phase.SETTLED:
            self._change(now)  # this leg again: nothing was stored for a while
            return
        if waiting < CROWD:  # what would be counted says nothing
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
                self._counts[self.batching] += stored - self._stored
                self._seconds[self.batching] += now - self._began
                self._legs += 1
                self._compare(now)

    def _compare(self, now: float) -> None:
        if self._legs < 2 * CLEAR_LEGS or self._legs % 2:
            self._change(now)
            return
        single, batched = (
            count / length for count, length in zip(self._counts, self._seconds, strict=True)
        )
        clear = max(single, batched) >= CLEAR * min(single, batched)
        if self._legs < 2 * LEGS and not clear:
            self._change(now)
            return
        self.rates = (single, batched)
        self._verdict = batched >= PENALTY * single
        self._counts, self._seconds, self._legs = [0, 0], [0.0, 0.0], 0
        self._settle(now + VERDICT_S)

    def _change(self, now: float) -> None:
        """The next leg: batches first, for most logs wait for something."""
        self.phase, self.batching = Phase.CHANGED, self._legs % 2 == 0
        self._until = now + SETTLE_S

    def _settle(self, until: float) -> None:
        self.phase, self.batching, self._until = Phase.SETTLED, self._verdict, until
