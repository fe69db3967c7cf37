"""The wire itself: bytes that no client library would send, over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Self

ACKS = b"_INBOX.raw"
"""Where the server's acknowledgements go."""


class Raw:
    """A connection without any library. What the server says is kept in `heard`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.heard = b""
        self.closed = False  # by the server

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect, and wait until the server knows us."""
        host, _, port = url.rpartition("/")[2].rpartition(":")
        raw = cls(*await asyncio.open_connection(host, int(port)))
        raw._writer.write(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n')
        raw._writer.write(b"SUB " + ACKS + b" 1\r\n")
        await raw.sync()
        return raw

    async def publish(
        self, subject: bytes, data: bytes, *, reply: bytes = b"", headers: bytes = b""
    ) -> None:
        """PUB, or HPUB with the block of headers as it is given."""
        words = [subject, reply] if reply else [subject]
        if headers:
            words += [str(len(headers)).encode(), str(len(headers) + len(data)).encode()]
            line = b"HPUB "
        else:
            words.append(str(len(data)).encode())
            line = b"PUB "
        self._writer.write(line + b" ".join(words) + b"\r\n" + headers + data + b"\r\n")
        await self.sync()

    async def tell(self, subject: bytes, data: bytes, *, headers: bytes = b"") -> None:
        """Publish, and wait for the stream's word, whatever it is."""
        acks = self.heard.count(b"MSG " + ACKS)
        await self.publish(subject, data, reply=ACKS, headers=headers)
        async with asyncio.timeout(10):
            while self.heard.count(b"MSG " + ACKS) == acks:
                self.heard += await self._reader.read(65536)

    async def pour(self, subjects: Iterable[bytes], data: bytes) -> None:
        """The same data to many subjects, as fast as the server reads."""
        size = str(len(data)).encode()
        lines = (b"PUB " + subject + b" " + size + b"\r\n" + data for subject in subjects)
        self._writer.write(b"\r\n".join(lines) + b"\r\n")
        await self.sync()

    async def sync(self) -> None:
        """Wait for a PONG: the server has read all that was sent, or closed the connection."""
        start = len(self.heard)
        try:
            self._writer.write(b"PING\r\n")
            async with asyncio.timeout(10):
                while b"PONG\r\n" not in self.heard[start:]:
                    got = await self._reader.read(65536)
                    self.heard += got
                    if not got:
                        self.closed = True
                        return
        except ConnectionError:
            self.closed = True

    async def close(self) -> None:
        self._writer.close()
