"""Residents: the entities in memory, bounded in number and in bytes.

The one unused longest leaves first, as soon as a bound is passed, not at the next sweep:
thousands of entities may be loaded within a second. Who is at work is passed over. If all of them
are, what is over the bounds is bounded itself: a runner that is `crowded` takes no asks for
further entities.

Bytes are estimated, since Python tells nobody what an object holds. The constants were measured
(tests/unit/durable/test_residents.py measures them again) and rather too high.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

BASE_BYTES = 3_000
"""An entity in memory with an empty ledger: its objects and its place in every table."""
KEPT_BYTES = 400
"""An answer that is kept to spare a read of the log, beside its own bytes."""
STATE_FACTOR = 6
"""A state in memory is larger than its JSON: about so many times."""

LOOKS = 64
"""How many entities are looked at when one has to leave, so that it never takes long."""
CROWDED = 1.25
"""At how many times its bounds a runner takes no further entities."""


class Resident(Protocol):
    """An entity in memory."""

    @property
    def idle(self) -> bool:
        """Whether nothing is lost but time if it leaves."""
        ...

    def leave(self) -> None:
        """Leave memory."""
        ...


class Residents:
    """Who is in memory in one runner, the least recently used first."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self.bytes: int = 0
        self.evicted: int = 0  # so far, to stay within the bounds
        self._sizes: OrderedDict[Resident, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sizes)

    def __repr__(self) -> str:
        return (
            f"Residents({len(self)} of {self.most}, about {self.bytes} of {self.most_bytes} bytes)"
        )

    @property
    def crowded(self) -> bool:
        """Whether the bounds are passed so far that no further entity may come."""
        return (
            self.bytes > CROWDED * self.most_bytes
            or len(self._sizes) > CROWDED * self.most + LOOKS
        )

    def use(self, resident: Resident) -> None:
        """It is used now; a new one may make others leave."""
        if resident in self._sizes:
            self._sizes.move_to_end(resident)
        else:
            # Before it is one of them: it is idle until it has what it was made for.
            self.shed(coming=1)
            self._sizes[resident] = BASE_BYTES
            self.bytes += BASE_BYTES

    def weigh(self, resident: Resident, size: int) -> None:
        """It holds about that many bytes now."""
        before = self._sizes.get(resident)
        if before is not None:
            self._sizes[resident] = size
            self.bytes += size - before
            self.shed()

    def forget(self, resident: Resident) -> None:
        """It left."""
        self.bytes -= self._sizes.pop(resident, 0)

    def shed(self, coming: int = 0) -> None:
        """Let the least recently used leave until the bounds hold, also with those that come."""
        most, most_bytes = self.most - coming, self.most_bytes - coming * BASE_BYTES
        looks = LOOKS
        while looks and self._sizes and (self.bytes > most_bytes or len(self._sizes) > most):
            looks -= 1
            oldest = next(iter(self._sizes))
            if oldest.idle:
                self.evicted += 1
                oldest.leave()
                self.forget(oldest)
            else:
                self._sizes.move_to_end(oldest)
