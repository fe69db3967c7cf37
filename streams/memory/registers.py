"""The members bucket, as the broker keeps it: keys with revisions, as a KV bucket has them.

A removal uses up a revision too, and a removed key counts as having no value: a value can be
created again with the expectation 0, and no revision is ever given twice.
"""

from __future__ import annotations

from ..port import Entry


class Registers:
    """A bucket."""

    def __init__(self) -> None:
        self._revision = 0
        self._entries: dict[str, Entry] = {}

    def get(self, key: str) -> Entry | None:
        """The value, or None."""
        return self._entries.get(key)

    def put(self, key: str, value: bytes, expected: int | None) -> int | None:
        """The new revision, or None if `expected` isn't the value's (0: no value)."""
        entry = self._entries.get(key)
        if expected is not None and expected != (entry.revision if entry else 0):
            return None
        self._revision += 1
        self._entries[key] = Entry(value, self._revision)
        return self._revision

    def delete(self, key: str) -> None:
        """Remove a value."""
        self._revision += 1
        self._entries.pop(key, None)
