"""Reader: nats-py's client with a parser that takes every subject which a server lets through.

A subject may hold any bytes but space, tab, CR and LF. nats-py's parser divides a line at every
white space, vertical tab and form feed included, and decodes strictly: so one publish of a
stranger ended a runner's connection, each time that it was delivered, and a vertical tab before a
number chose the subscription that a message went to, with which an acknowledgement could be
forged. Here a line is divided where the server divides it, at single spaces, and what isn't UTF-8
is replaced: to the code above it is a token like any other that is no id.

It stands in for nats-py's own parser and calls what that calls, the one place where perdure
touches what nats-py keeps to itself. tests/hostile fails if a release of nats-py changes it.
"""

from __future__ import annotations

import json
from typing import Any

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, Parser

LINE_BYTES = 1024 * 1024
"""The longest line: the server's greeting lists a cluster's addresses; subjects are below 4 KiB."""
HEADER_BYTES = len(b"NATS/1.0\r\n\r\n")
"""The shortest block of headers."""


class Reader(Client):
    """nats-py's client, on a strict parser."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = StrictParser(self)


class StrictParser(Parser):
    """Divides what the server sends into messages and signals."""

    nc: Any
    buf: bytearray
    state: int
    needed: int
    header_needed: int
    msg_arg: dict[str, Any]

    async def parse(self, data: bytes = b"") -> None:
        """Take what came, and pass on all that is complete. Raises ProtocolError."""
        self.buf.extend(data)
        while self.buf:
            if self.state == AWAITING_MSG_PAYLOAD:
                if not await self._payload():
                    return
                continue
            end = self.buf.find(b"\r\n")
            if end < 0:
                if len(self.buf) > LINE_BYTES:
                    raise ProtocolError
                return
            line = bytes(self.buf[:end])
            del self.buf[: end + 2]
            if line.startswith((b"MSG ", b"HMSG ")):
                self._message(line.split(b" "))
            else:
                await self._signal(line)

    def _message(self, words: list[bytes]) -> None:
        """`MSG subject sid [reply] size`, `HMSG subject sid [reply] header-size size`."""
        sizes = 2 if words[0] == b"HMSG" else 1
        middle = words[3:-sizes]
        if len(words) < 3 + sizes or len(middle) > 1:
            raise ProtocolError
        numbers = (words[2], *words[-sizes:])
        if not all(number.isdigit() for number in numbers):
            raise ProtocolError
        reply = middle[0] if middle else b""
        self.msg_arg = {"subject": _text(words[1]), "sid": int(words[2]), "reply": _text(reply)}
        self.needed = int(words[-1])
        self.header_needed = int(words[-2]) if sizes == 2 else 0
        self.state = AWAITING_MSG_PAYLOAD

    async def _payload(self) -> bool:
        """Pass on the message whose bytes came; False if some are missing."""
        size, header_size = self.needed, self.header_needed
        if len(self.buf) < size + 2:
            return False
        header = _text(bytes(self.buf[:header_size]))
        data = bytes(self.buf[header_size:size])
        del self.buf[: size + 2]
        self.header_needed = 0
        self.state = AWAITING_CONTROL_LINE
        found = self.msg_arg
        headers = header if len(header) >= HEADER_BYTES else None
        await self.nc._process_msg(found["sid"], found["subject"], found["reply"], data, headers)
        return True

    async def _signal(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        match word:
            case b"PING":
                await self.nc._process_ping()
            case b"PONG":
                await self.nc._process_pong()
            case b"INFO":
                await self.nc._process_info(json.loads(rest))
            case b"-ERR":
                await self.nc._process_err(rest.decode(errors="replace").strip().lower())
            case b"+OK":
                pass
            case _:
                raise ProtocolError


def _text(data: bytes) -> bytes:
    """The same if it is UTF-8; else what isn't is replaced."""
    return data if data.isascii() else data.decode(errors="replace").encode()
