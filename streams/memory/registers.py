"""The members bucket, as the broker keeps it: keys with revisions, as a KV bucket has them.

A removal uses up a revision too, and a removed key counts as having no value: a value can be
created again with the expectation 0, and no revision is ever given twice.
"""

from __future__ import annotations

from collections.abc import Callable

from ..port import ENTRIES, Entry

SECOND_NS = 1_000_000_000


class Registers:
    """A bucket."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._revision = 0
        self._entries: dict[str, Entry] = {}
        self._until: dict[str, int] = {}  # of those that go by themselves, Unix nanoseconds

    def get(self, key: str) -> Entry | None:
        """The value, or None."""
        until = self._until.get(key)
        if until is not None and until <= self._now_ns():
            self._drop(key)
        return self._entries.get(key)

    def put(
        self, key: str, value: bytes, expected: int | None, ttl_s: int | None = None
    ) -> int | None:
        """The new revision, or None if `expected` isn't the value's (0: no value)."""
        entry = self.get(key)
        if expected is not None and expected != (entry.revision if entry else 0):
            return None
        self._revision += 1
        self._drop(key)
        self._entries[key] = Entry(value, self._revision)
        if ttl_s is not None:
            self._until[key] = self._now_ns() + ttl_s * SECOND_NS
        return self._revision

    def delete(self, key: str, upto: int | None) -> None:
        """Remove a value, unless its revision is beyond `upto`."""
        entry = self.get(key)
        if entry is not None and upto is not None and entry.revision > upto:
            return
        self._revision += 1
        self._drop(key)

    def entries(self, head: str) -> dict[str, Entry]:
        """The values of all keys `head.TOKEN`."""
        keys = [k for k in self._entries if k.rpartition(".")[0] == head]
        found = {key: entry for key in keys if (entry := self.get(key)) is not None}
        return dict(list(found.items())[:ENTRIES])

    def _drop(self, key: str) -> None:
        self._entries.pop(key, None)
        self._until.pop(key, None)
