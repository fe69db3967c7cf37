"""Room: how many bytes may be on their way at once; who finds none waits for its turn."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """A bound on bytes. One message that is larger than all of it fits while it is empty."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken: int = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def take(self, size: int) -> None:
        """Wait for room; to be given back."""
        if self.try_take(size):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            raise

    def try_take(self, size: int) -> bool:
        """Take room, if there is some at once."""
        if self._waiting or not self._fits(size):
            return False
        self.taken += size
        return True

    def give(self, size: int) -> None:
        """Give room back."""
        self.taken -= size
        self._admit()

    def end(self) -> None:
        """Let everybody go: there is nothing to be sent any more, and they will see."""
        while self._waiting:
            turn, size = self._waiting.popleft()
            if not turn.done():
                self.taken += size
                turn.set_result(None)

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][0].done() or self._fits(self._waiting[0][1])):
            turn, size = self._waiting.popleft()
            if not turn.done():
                self.taken += size
                turn.set_result(None)

    def _fits(self, size: int) -> bool:
        return self.taken == 0 or self.taken + size <= self.limit
