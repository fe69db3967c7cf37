"""Protocol: uvicorn's HTTP/1.1, with a time for a request's head.

uvicorn ends idle connections after an answer, but waits for ever for the first request on one, and
for the rest of a head that has begun: a few hundred such clients would keep everybody else out.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Protocol(H11Protocol):
    """A connection that must bring each request's head in time."""

    HEAD_S = 10.0
    """How long that may take, in seconds: what proxies allow, and more than slow networks need."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._late = self.loop.call_later(self.HEAD_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """Wait on if the head isn't whole; the time runs from its first byte."""
        super().data_received(data)
        begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not begun:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.HEAD_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
