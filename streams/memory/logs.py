"""The log of one entity type, as the broker keeps it: only appends, one sequence for all.

The condition is checked and the message stored in one step, as the server does it. Nothing is
ever removed; `tamper` and `rewind` are for tests of what a disk may do.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable

from msgspec.structs import replace

from ..commit import Stored
from ..port import Appended, WrongLast


class LogStore:
    """All commits of a type."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, Stored]] = []  # sequence n is at n - 1
        self._by_token: dict[str, list[int]] = {}
        self._watchers: dict[str, list[Callable[[], None]]] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def ends_at(self, token: str, expected: int) -> bool:
        """Whether that is the token's last sequence (0: it has none)."""
        sequences = self._by_token.get(token)
        return expected == (sequences[-1] if sequences else 0)

    def append(
        self, token: str, data: bytes, mark: str | None, time_ns: int, *, expected: int | None
    ) -> Appended | WrongLast:
        """Store a message; with `expected` only if that is the token's last sequence."""
        if expected is not None and not self.ends_at(token, expected):
            return WrongLast()
        sequence = len(self._messages) + 1
        self._messages.append((token, Stored(sequence, time_ns, data, mark)))
        self._by_token.setdefault(token, []).append(sequence)
        for watcher in list(self._watchers.get(token, ())):
            watcher()
        return Appended(sequence)

    def last(self, token: str) -> Stored | None:
        """The token's last message."""
        sequences = self._by_token.get(token)
        return self._messages[sequences[-1] - 1][1] if sequences else None

    def count(self, token: str) -> int:
        """How many messages the token has."""
        return len(self._by_token.get(token, ()))

    def by_sequence(self, sequence: int) -> Stored | None:
        """One message."""
        return self._messages[sequence - 1][1] if 1 <= sequence <= len(self) else None

    def between(self, token: str, after: int, upto: int | None, limit: int) -> list[Stored]:
        """The token's first `limit` messages with `after` < sequence <= `upto`."""
        sequences = self._by_token.get(token, [])
        start = bisect.bisect_right(sequences, after)
        stop = len(sequences) if upto is None else bisect.bisect_right(sequences, upto)
        return [self._messages[s - 1][1] for s in sequences[start : min(stop, start + limit)]]

    def watch(self, token: str, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call `watcher` after each append of a token, until the returned function is called."""
        watchers = self._watchers.setdefault(token, [])
        watchers.append(watcher)

        def end() -> None:
            watchers.remove(watcher)
            if not watchers and self._watchers.get(token) is watchers:
                del self._watchers[token]

        return end

    def tokens(self) -> list[str]:
        """All escaped ids that have a log, in the order of their first message."""
        return list(self._by_token)

    def rewind(self, keep: int) -> None:
        """Lose what is beyond a sequence, and give it out again: an older copy of its files."""
        del self._messages[keep:]
        for token, sequences in list(self._by_token.items()):
            del sequences[bisect.bisect_right(sequences, keep) :]
            if not sequences:
                del self._by_token[token]

    def tamper(self, token: str, sequence: int, data: bytes) -> None:
        """Change the bytes of a stored message. Raises KeyError if the token hasn't got it."""
        if sequence not in self._by_token.get(token, ()):
            raise KeyError(f"no message {sequence} of {token}")
        _, stored = self._messages[sequence - 1]
        self._messages[sequence - 1] = (token, replace(stored, data=data))
