"""Pace: how many commands a runner answers in a second when it does nothing but work. Pure.

`runner_capacity` bounds what may wait in a runner, but a number of commands is no time: ten
thousand are a second's worth of quick handlers on a quick machine, and twenty of others. What is
accepted too late is repeated by its caller and wanted by nobody. So what may wait follows from
what is done, and that is measured while more workers want their turn than get it: else a runner
with little to do would be taken for a slow one, and one that waits for the disk, too.
"""

from __future__ import annotations

WINDOW_S = 0.25
"""How much contended time makes a measurement, in seconds: many turns, and soon enough."""

SHARE = 0.3
"""How much a new measurement counts beside the ones before."""

WORTH_S = 1.0
"""How much may wait, in seconds of work: most callers still want what comes after that time."""

LEAST = 256
"""What may always wait: several times the turns that go at once, so that the workers of an
overloaded runner stay in line and its pace is measured on."""

FORGET_S = 10.0
"""Without contention for so long, in seconds, the measurement is out of date: the next load may be
of other commands. The first window of an overload is then bounded by the setting alone."""


class Pace:
    """What is done in contended time, and what may wait by that."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.per_second: float | None = None
        self._contended_at: float | None = None  # when somebody was last left waiting, in a row
        self._measured_at = 0.0
        self._elapsed_s = 0.0
        self._done = 0

    def __repr__(self) -> str:
        rate = "unknown" if self.per_second is None else f"{self.per_second:.0f}/s"
        return f"Pace({rate}, {self.capacity} may wait)"

    @property
    def capacity(self) -> int:
        """How many may wait."""
        if self.per_second is None:
            return self.most
        return min(self.most, max(LEAST, int(self.per_second * WORTH_S)))

    def did(self, commands: int) -> None:
        """So many are answered."""
        if self._contended_at is not None:
            self._done += commands

    def round(self, now: float, *, waiting: bool) -> None:
        """A round of turns was given out at that time; whether some are left without."""
        if self._contended_at is not None:
            self._elapsed_s += now - self._contended_at
        else:
            self.look(now)
        self._contended_at = now if waiting else None
        if self._elapsed_s >= WINDOW_S:
            self._measure(now)

    def look(self, now: float) -> None:
        """Forget what was measured too long ago."""
        if self._contended_at is None and now - self._measured_at > FORGET_S:
            self.per_second = None

    def _measure(self, now: float) -> None:
        rate = self._done / self._elapsed_s
        known = self.per_second
        self.per_second = rate if known is None else known + SHARE * (rate - known)
        self._elapsed_s, self._done, self._measured_at = 0.0, 0, now
