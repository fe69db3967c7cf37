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
import re
from typing import Any

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, Parser

LINE_BYTES = 1024 * 1024
"""The longest line: a greeting lists a cluster's addresses; subjects are below 4 KiB."""
HEADER_BYTES = len(b"NATS/1.0\r\n\r\n")
"""The shortest block of headers."""

_MESSAGE = re.compile(rb"(H)?MSG ([^ \r\n]+) (\d+) (?:([^ \r\n]+) )?(?(1)(\d+) )(\d+)\r\n")
"""`MSG subject sid [reply] size`; `HMSG` with the size of its headers before the whole size."""


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
            if self.state == AWAITING_CONTROL_LINE:
                found = _MESSAGE.match(self.buf)
                if found is None:
                    if not await self._signal():
                        return
                    continue
                _, subject, sid, reply, header_size, size = found.groups()
                del self.buf[: found.end()]
                self.msg_arg = {"subject": subject, "sid": int(sid), "reply": reply or b""}
                self.needed, self.header_needed = int(size), int(header_size or 0)
                self.state = AWAITING_MSG_PAYLOAD
            size, header_size = self.needed, self.header_needed
            if len(self.buf) < size + 2:
                return
            headers = _headers(bytes(self.buf[:header_size]))
            payload = bytes(self.buf[header_size:size])
            del self.buf[: size + 2]
            self.state = AWAITING_CONTROL_LINE
            subject, reply = _text(self.msg_arg["subject"]), _text(self.msg_arg["reply"])
            await self.nc._process_msg(self.msg_arg["sid"], subject, reply, payload, headers)

    async def _signal(self) -> bool:
        """Take a line that is no message; False if its end is missing."""
        end = self.buf.find(b"\r\n")
        if end < 0:
            if len(self.buf) > LINE_BYTES:
                raise ProtocolError
            return False
        word, _, rest = bytes(self.buf[:end]).partition(b" ")
        del self.buf[: end + 2]
        match word:
            case b"PING":
                await self.nc._process_ping()
            case b"PONG":
                await self.nc._process_pong()
            case b"INFO":
                await self.nc._process_info(_json(rest))
            case b"-ERR":
                await self.nc._process_err(rest.decode(errors="replace").strip().lower())
            case b"+OK":
                pass
            case _:
                raise ProtocolError
        return True


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise ProtocolError from None


def _text(data: bytes) -> bytes:
    """The same if it is UTF-8; else what isn't is replaced."""
    return data if data.isascii() else data.decode(errors="replace").encode()


def _headers(block: bytes) -> bytes | None:
    """The same, without a status that nobody can read; None for a block that is none."""
    if len(block) < HEADER_BYTES:
        return None
    line, _, rest = block.partition(b"\r\n")
    return block if line.isascii() else b"NATS/1.0\r\n" + rest
