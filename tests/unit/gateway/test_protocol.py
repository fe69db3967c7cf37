"""Connections whose clients don't finish what they send, or don't take what they asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from perdure.deploy.gateway.protocol import Protocol

from ...support.server import PATIENCE_S, until
from .house import deaf

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
MUCH = b"x" * 4_000_000
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def short(_scope: Scope, _receive: Receive, send: Send) -> None:
    """As a 404 is answered: on the head alone."""
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def long(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An answer in one piece."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": MUCH})


class Site:
    """A server on a socket of its own, and its connections."""

    def __init__(self, app: App, keep_alive_s: float) -> None:
        self.state = ServerState()
        asgi: Any = app  # Starlette's types beside uvicorn's
        kind = Protocol
        config = uvicorn.Config(asgi, loop="none", http=kind, lifespan="off", log_config=None)
        config.load()
        config.timeout_keep_alive = keep_alive_s  # type: ignore[assignment]
        self._config = config

    def __call__(self) -> Protocol:
        return Protocol(self._config, self.state, {})


@asynccontextmanager
async def serving(app: App, keep_alive_s: float = 60.0) -> AsyncGenerator[tuple[Site, int]]:
    made = Site(app, keep_alive_s)
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    try:
        yield made, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(made.state.connections):
            assert connection.transport is not None
            connection.transport.abort()
        await until(lambda: not made.state.connections, "the end of its connections")


@asynccontextmanager
async def calling(port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield reader, writer
    finally:
        writer.close()


async def test_the_rest_of_an_unread_body_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "HEAD_S", 0.1)
    async with serving(short) as (_, port), calling(port) as (reader, writer):
        writer.write(GET + b"Content-Length: 9\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(b"x")
        assert await reader.read() == b""


@pytest.mark.parametrize("body", [b"", b"123456789"])
async def test_an_idle_connection_has_the_time_of_idle_ones(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """Not that of a head: whoever uses it again just then would be cut off."""
    monkeypatch.setattr(Protocol, "HEAD_S", 0.01)
    loop = asyncio.get_running_loop()
    async with serving(short, keep_alive_s=0.3) as (_, port), calling(port) as (reader, writer):
        writer.write(GET + b"Content-Length: %d\r\n\r\n" % len(body))
        await reader.readuntil(b"ok")
        began = loop.time()
        writer.write(body)
        assert await reader.read() == b""
        assert loop.time() - began > 0.2


async def test_an_answer_that_nobody_reads_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "SEND_S", 0.1)
    async with serving(long) as (made, port):
        with contextlib.closing(deaf(port, GET + b"Connection: close\r\n\r\n")):
            await until(lambda: made.state.total_requests == 1, "an answer")
            await until(lambda: not made.state.connections, "the connection's end")


async def test_who_sends_to_a_client_that_does_not_read_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Protocol, "SEND_S", 0.1)

    async def stream(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": MUCH, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with serving(stream) as (made, port):
        with contextlib.closing(deaf(port, GET + b"\r\n")):
            await until(lambda: bool(made.state.tasks), "its task")
            await until(lambda: not made.state.tasks, "its end")
            await until(lambda: not made.state.connections, "the connection's end")


class _Slow(asyncio.Transport):
    """Has so much left each time that it is asked."""

    def __init__(self, left: list[int]) -> None:
        super().__init__()
        self._left, self.ended = left, asyncio.Event()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return self._left.pop(0)

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.ended.set()


async def test_who_takes_enough_keeps_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "SEND_S", 0.001)
    enough = [
        300_000,
        200_000,
        200_000,
        100_000,
        100_000,
    ]  # asked for when it begins, then twice each time
    left = [*enough, 99_999]
    transport = _Slow(left)
    protocol = Site(long, 60.0)()
    protocol.connection_made(transport)
    protocol.pause_writing()
    async with asyncio.timeout(PATIENCE_S):
        await transport.ended.wait()
    assert left == []
    protocol.connection_lost(OSError())
