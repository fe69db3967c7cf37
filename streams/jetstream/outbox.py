"""Outbox: sends that nobody waits for (answers, acknowledgements, pulls).

`put` is synchronous and cheap. nats-py's own buffer has no bound once its pending size is off, so
once that is large, sends wait here until a writer task finds it emptied by the server. What
doesn't fit into the bound is dropped and counted: everything that goes out here may be lost
anyway, and whoever misses it asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from nats.errors import Error

from .reader import Reader

logger: logging.Logger = logging.getLogger("perdure.jetstream")

OUTBOX_BYTES = 64 * 1024**2
"""What may wait to be sent: a second's worth of large answers on a fast network."""
PENDING_BYTES = 8 * 1024**2
"""What nats-py may hold before sends wait here for the socket."""
OVERHEAD_BYTES = 200
"""Counted for each message beside its data, so that empty ones are bounded too."""
BURST = 256
"""Messages between two turns of the loop, so that a full outbox doesn't stop everybody."""


class Outbox:
    """What waits to be sent on one connection."""

    def __init__(self, client: Reader) -> None:
        self.dropped: int = 0
        self._client = client
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._task = self._loop.create_task(self._run(), name="perdure outbox")

    def put(self, frame: bytes) -> bool:
        """Send soon, a whole publish; False if there is no room, or the connection ended."""
        size = len(frame) + OVERHEAD_BYTES
        pending = self._client.pending_data_size
        if self._task.done() or self._bytes + pending + size > OUTBOX_BYTES:
            self.dropped += 1
            return False
        if not self._queue and pending <= PENDING_BYTES:
            self._client.put(frame)
            return True
        self._queue.append(frame)
        self._bytes += size
        if self._wake is not None:
            _finish(self._wake)
            self._wake = None
        return True

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def size(self) -> int:
        """What waits to be sent, in bytes, nats-py's buffer with it."""
        return self._bytes + self._client.pending_data_size

    async def empty(self, timeout_s: float) -> None:
        """Wait until all is handed over, or the time is up."""
        if self._queue and not self._task.done():
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.wait({self._idle, self._task}, timeout=timeout_s, return_when=_FIRST)

    def stop(self) -> None:
        """Send nothing more."""
        self._task.cancel()
        self._queue.clear()

    async def _run(self) -> None:
        while True:
            sent = 0
            while self._queue:
                if not self._client.is_connected:  # for good: a client is used once
                    self._queue.clear()
                    self._bytes = 0
                    break
                if self._client.pending_data_size > PENDING_BYTES:
                    await self._breathe()
                    continue
                frame = self._queue.popleft()
                self._bytes -= len(frame) + OVERHEAD_BYTES
                self._client.put(frame)
                sent += 1
                if sent % BURST == 0:
                    await self._breathe()
            if self._idle is not None:
                _finish(self._idle)
                self._idle = None
            self._wake = self._loop.create_future()
            await self._wake

    async def _breathe(self) -> None:
        """Let others run; let the socket catch up."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._loop.call_soon(_finish, turn)
        await turn
        while self._client.is_connected and self._client.pending_data_size > PENDING_BYTES:
            try:
                await self._client.flush()
            except (Error, OSError) as error:
                logger.warning("the server takes nothing: %r", error)


_FIRST = asyncio.FIRST_COMPLETED


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
