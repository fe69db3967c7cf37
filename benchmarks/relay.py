"""A relay between a process and the server, whose line can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

CHUNK = 64 * 1024


class Relay:
    """Passes bytes on, both ways."""

    def __init__(self, port: int) -> None:
        """Made by `relayed`; `port` is the server's."""
        self.cuts: int = 0
        self.url: str = ""
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections; new ones are made as before. It counts if there was one."""
        self.cuts += bool(self._writers)
        self.end()

    def end(self) -> None:
        """Break all connections, since it is over."""
        for writer in self._writers:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:  # the server is gone: so is the line
            writer.transport.abort()
            return
        both = {writer, to_there}
        self._writers |= both
        try:
            await asyncio.gather(pump(reader, to_there), pump(there, writer))
        finally:
            self._writers -= both
            for one in both:
                one.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One way of a connection, to its end, which ends the other way, too."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:  # it was cut
        pass
    finally:
        writer.transport.abort()


@asynccontextmanager
async def relayed(port: int) -> AsyncGenerator[Relay]:
    """A relay to a port of this machine while it runs."""
    relay = Relay(port)
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0)
    relay.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()
        relay.end()
