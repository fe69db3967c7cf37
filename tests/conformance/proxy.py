"""A TCP proxy between one client and a server, whose line can break or fall silent."""

from __future__ import annotations

import asyncio
from typing import Self


class Proxy:
    """Passes bytes on, both ways, to `port` on this machine."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.connections = 0
        self.refusing = False  # new connections are closed at once
        self.mute = False  # what the server says is thrown away
        self.unheard = b""  # what was thrown away since the last cut
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> Self:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def cut(self) -> None:
        """Break all connections; silence ends with them."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self.mute = False
        self.unheard = b""

    async def close(self) -> None:
        """End it."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # the server is down: so is the line
            writer.transport.abort()
            return
        self.connections += 1
        self._writers |= {writer, up_writer}
        for task in (
            asyncio.create_task(self._pump(reader, up_writer, from_server=False)),
            asyncio.create_task(self._pump(up_reader, writer, from_server=True)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if from_server and self.mute:
                    self.unheard += data
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            return  # broken: the other direction sees it too
        finally:
            writer.close()
