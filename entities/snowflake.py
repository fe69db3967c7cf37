"""Snowflake: time-ordered 64-bit ids, made without asking anybody.

42 bits of milliseconds since 2025-01-01 UTC (enough to the year 2164), 10 bits of machine, 12
bits of sequence within the millisecond. Unique as long as no two generators with the same machine
number run at the same time, and none starts in a millisecond that its predecessor used.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Self

from .clock import Clock, SystemClock, to_datetime, to_ns

EPOCH_MS = to_ns(datetime(2025, 1, 1, tzinfo=UTC)) // 1_000_000
"""Unix milliseconds at which the ids begin."""
MACHINES = 1 << 10
"""How many machine numbers there are."""
SEQUENCES = 1 << 12
"""How many ids a machine may make in one millisecond of its own."""
AHEAD_MS = 1_000
"""How far, in milliseconds, a generator may run ahead of a clock that moves slower than it is
used: 4 million ids, far more than Python makes in a second, yet ids stay within a second of the
truth."""
_BITS = 64


class ClockWentBack(RuntimeError):
    """The clock went back behind the time of an id already made: another could be the same."""


class SnowflakesExhausted(RuntimeError):
    """The generator is a second ahead of its clock (or the epoch's 139 years are over)."""


class Snowflake(int):
    """A time-ordered 64-bit id; `str()` of it (decimal) is a valid entity id and key.

    Gotchas: two processes that call `Snowflake.new()` need different machine numbers
    (`use_machine`, or the setting `machine_id`), and so do a process and its fork. As an `int`
    subclass it can't be a field of a message: declare `int`. JavaScript's numbers end at 53 bits:
    send it as text.
    """

    def __new__(cls, value: int | str) -> Self:
        """The id of a number or of its decimal text; ValueError if it isn't of 64 bits."""
        made = super().__new__(cls, value)
        if not 0 <= made < 1 << _BITS:
            raise ValueError(f"not a snowflake: {int(made)} isn't of {_BITS} bits")
        return made

    @classmethod
    def of(cls, ms: int, machine: int, sequence: int) -> Self:
        """From its parts: milliseconds since 2025-01-01 UTC, machine and sequence."""
        if not (0 <= ms < 1 << 42 and 0 <= machine < MACHINES and 0 <= sequence < SEQUENCES):
            raise ValueError(f"not the parts of a snowflake: {ms}, {machine}, {sequence}")
        return cls(ms << 22 | machine << 12 | sequence)

    @classmethod
    def new(cls) -> Snowflake:
        """The next id of this process's own generator.

        Raises ClockWentBack or SnowflakesExhausted, as `SnowflakeGenerator.new` does.
        """
        return _default.new()

    @property
    def ms(self) -> int:
        """Milliseconds since 2025-01-01 UTC."""
        return int(self) >> 22

    @property
    def time(self) -> datetime:
        """When it was made, to the millisecond, by its machine's clock."""
        return to_datetime((EPOCH_MS + self.ms) * 1_000_000)

    @property
    def machine(self) -> int:
        """The number of the machine that made it, 0-1023."""
        return int(self) >> 12 & MACHINES - 1

    @property
    def sequence(self) -> int:
        """Its number within its millisecond, 0-4095."""
        return int(self) & SEQUENCES - 1

    def __repr__(self) -> str:
        return f"Snowflake({int(self)})"

    def __str__(self) -> str:
        return int.__repr__(self)


class SnowflakeGenerator:
    """Makes the ids of one machine: strictly growing, also when used from several threads."""

    def __init__(self, clock: Clock, machine: int) -> None:
        """`machine` is 0-1023 and no other running generator's; else ValueError."""
        if not 0 <= machine < MACHINES:
            raise ValueError(f"machine {machine} isn't 0-{MACHINES - 1}")
        self.machine = machine
        self._clock = clock
        self._lock = threading.Lock()
        self._seen_ms = -1  # the clock's newest reading
        self._ms = -1  # of the newest id; ahead of the clock when a millisecond was used up
        self._sequence = SEQUENCES - 1

    def new(self) -> Snowflake:
        """The next id.

        When the 4,096 of a millisecond are used, it goes on with the next one's before the clock
        has reached it, at most AHEAD_MS ahead.

        Raises ClockWentBack if the clock is behind an earlier reading: an earlier process, or this
        one, may have made the ids of that time. Wait until the clock has caught up. Raises
        SnowflakesExhausted when more were made than a second ahead of the clock has room for, and
        outside the years 2025 to 2164.
        """
        with self._lock:
            now_ms = self._clock.now_ns() // 1_000_000 - EPOCH_MS
            if not 0 <= now_ms < 1 << 42:
                raise SnowflakesExhausted("the clock isn't within the years 2025 to 2164")
            if now_ms < self._seen_ms:
                raise ClockWentBack(f"the clock went back by {self._seen_ms - now_ms} ms")
            ms, sequence = self._ms, self._sequence + 1
            if now_ms > ms:
                ms, sequence = now_ms, 0
            elif sequence == SEQUENCES:
                ms, sequence = ms + 1, 0
            if ms - now_ms > AHEAD_MS:
                raise SnowflakesExhausted(f"more than {AHEAD_MS} ms ahead of the clock")
            made = Snowflake.of(ms, self.machine, sequence)
            self._seen_ms, self._ms, self._sequence = now_ms, ms, sequence
            return made

    def __repr__(self) -> str:
        return f"SnowflakeGenerator(machine={self.machine})"


_default = SnowflakeGenerator(SystemClock(), 0)


def use_machine(machine: int) -> None:
    """Let `Snowflake.new()` make the ids of this machine number, 0-1023, in this process.

    Without it the number is 0, which is right for one process alone.
    """
    global _default
    if machine != _default.machine:
        _default = SnowflakeGenerator(SystemClock(), machine)
