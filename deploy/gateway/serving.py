"""Serving: the gateway on a socket, by uvicorn, until it is cancelled; then it drains.

uvicorn installs signal handlers of its own and raises the signals again when it has ended; here
they are the process's (`deploy/process.py`), as for a runner.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn

from .app import Gateway
from .limits import HEAD_BYTES, KEEP_ALIVE_S, SPARE_CONNECTIONS
from .protocol import Protocol

BACKLOG = 1_024
"""Connections that may wait to be accepted: a burst, no overload."""


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """They are the process's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._on_ready()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family = found[0][0]
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


async def serve_gateway(
    gateway: Gateway, sock: socket.socket, on_ready: Callable[[], None]
) -> None:
    """Serve until cancelled; then take nothing more, and let what runs end within `drain_s`."""
    limits = gateway.limits
    config = uvicorn.Config(
        gateway,
        loop="none",
        http=Protocol,  # not httptools, which bounds no headers
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # its own would hold resume tokens
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        limit_concurrency=limits.requests + limits.streams + SPARE_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(limits.drain_s),
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    server = _Server(config, on_ready)
    serving = asyncio.get_running_loop().create_task(server.serve([sock]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        gateway.draining.set()
        server.should_exit = True
        await serving
        raise
    finally:
        await gateway.close()
