"""Seen: which ids were told already, in bounded memory.

A set of strings takes 100 bytes and more for each; here it is 16, in two tables of 64-bit hashes.
When the younger is full, the older is forgotten: so an id that comes again after many others is
told again. Duplicates come soon after each other, by a repeated registration or a page that was
rolled up. Two ids with the same hash would hide one of them: with the keyed hash of Python, that
is one in ten million listings of a million ids, and another process has another key.
"""

from __future__ import annotations

from array import array

GENERATION = 2**21
"""Ids in one table; two take 64 MiB when they are full, and remember two to four million ids."""
FIRST = 2**10
"""Slots of a table at first; it grows fourfold."""


class Seen:
    """The newest ids."""

    def __init__(self, generation: int = GENERATION) -> None:
        self._generation = generation
        self._young = _Table()
        self._old = _Table()

    def add(self, id: str) -> bool:
        """Remember it; whether it is new."""
        key = hash(id) or 1  # 0 is a free slot
        if self._old.has(key) or not self._young.add(key):
            return False
        if self._young.count >= self._generation:
            self._old, self._young = self._young, _Table()
        return True


class _Table:
    """Open addressing in one array, at most half full."""

    __slots__ = ("_mask", "_slots", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._slots = array("q", bytes(8 * FIRST))
        self._mask: int = FIRST - 1

    def has(self, key: int) -> bool:
        return self._slots[self._find(key)] == key

    def add(self, key: int) -> bool:
        """Whether it wasn't there."""
        at = self._find(key)
        if self._slots[at] == key:
            return False
        self._slots[at] = key
        self.count += 1
        if 2 * self.count > len(self._slots):
            self._grow()
        return True

    def _find(self, key: int) -> int:
        """Where it is, or the free slot where it belongs."""
        slots, mask = self._slots, self._mask
        at = key & mask
        while (found := slots[at]) != key and found != 0:
            at = (at + 1) & mask
        return at

    def _grow(self) -> None:
        before = self._slots
        self._slots = array("q", bytes(32 * len(before)))
        self._mask = len(self._slots) - 1
        for key in before:
            if key:
                self._slots[self._find(key)] = key
