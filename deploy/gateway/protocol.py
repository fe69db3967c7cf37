"""Protocol: uvicorn's HTTP/1.1, with a time for all that a client has to do.

uvicorn ends idle connections after an answer, but waits for ever for the first request on one, for
the rest of a head that has begun, for the rest of a body that nobody reads, and for a client that
takes nothing of its answer: a few hundred such clients would keep everybody else out.
"""

from __future__ import annotations

import asyncio
import logging
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_log = logging.getLogger("perdure.gateway")

_UNSENT = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # not on every system


class Protocol(H11Protocol):
    """A connection whose client asks in time, and takes its answers in time."""

    HEAD_S = 10.0
    """How long a head may take, in seconds, and the rest of a request that is answered already:
    what proxies allow, and more than slow networks need."""
    SEND_S = 30.0
    """In what time, in seconds, a client takes SEND_BYTES of what is there for it."""
    SEND_BYTES = 65_536
    """How much, or all that is left: 2 kB/s, a telephone at the edge of its cell."""
    UNSENT_BYTES = 65_536
    """What the kernel takes beyond what the client has room for, at most. With its usual megabytes
    it would tell that there is room again only when a third of them is gone: minutes, for some."""

    _late: asyncio.TimerHandle | None = None
    _slow: asyncio.TimerHandle | None = None

    # -- what the client sends ------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if _UNSENT is not None and sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _UNSENT, self.UNSENT_BYTES)
        self._late = self.loop.call_later(self.HEAD_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """Wait on unless a request is in hand; the time runs from the first byte after it.

        uvicorn's own timer begins when an answer is complete, and any byte ends it.
        """
        super().data_received(data)
        idle = self.conn.our_state is self.conn.their_state is h11.IDLE
        if not self._all_answered:
            self._stop()
        elif idle and not self.conn.trailing_data[0]:  # that was the rest of a body nobody read
            self._stop()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif self._late is None:
            self._late = self.loop.call_later(self.HEAD_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        self._watch_no_more()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    @property
    def _all_answered(self) -> bool:
        return not self.cycle or self.cycle.response_complete

    # -- what it takes --------------------------------------------------------------------------
    def pause_writing(self) -> None:
        """Too much waits for the client: it has its time now."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It took most of it."""
        super().resume_writing()
        self._watch()

    def on_response_complete(self) -> None:
        """What is left of the answer has its time, too; nobody waits for it any more."""
        self._watch()
        super().on_response_complete()

    @property
    def _shrinks(self) -> bool:
        """Whether nothing is added to what waits for the client."""
        return self.flow.write_paused or self._all_answered or self.transport.is_closing()

    def _watch(self) -> None:
        """Look again later, if something is left and nothing is added meanwhile."""
        self._watch_no_more()
        left = self.transport.get_write_buffer_size()
        if left and self._shrinks:
            self._slow = self.loop.call_later(self.SEND_S, self._look, left)

    def _look(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if not self._shrinks or left <= max(0, before - self.SEND_BYTES):
            self._watch()
            return
        self._slow = None
        _log.info("an answer was not read", extra={"action": "http.stuck", "bytes": left})
        self.transport.abort()  # to close it would wait for the client

    def _watch_no_more(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
