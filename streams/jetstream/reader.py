"""Reader: nats-py's client with a parser that takes every subject which a server lets through.

A subject may hold any bytes but space, tab, CR and LF. nats-py's parser divides a line at every
white space, vertical tab and form feed included, and decodes strictly: so one publish of a
stranger ended a runner's connection, each time that it was delivered, and a vertical tab before a
number chose the subscription that a message went to, with which an acknowledgement could be
forged. Here a line is divided where the server divides it, at single spaces, and what isn't UTF-8
is replaced: to the code above it is a token like any other that is no id.

What perdure listens to goes straight from here to its handler. nats-py would put each message
into a queue and wake a task for it; that took a tenth of a runner's time under load, and handlers
here never wait, so there is nothing that a queue could be for.

What perdure sends goes from here into nats-py's buffer, in one step: its `publish` is a coroutine
that checks again what was checked, and makes the headers anew; that took another tenth.

It stands in for nats-py's own parser and `publish` and calls what they call, the one place where
perdure touches what nats-py keeps to itself. tests/hostile fails if a release of nats-py changes
it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error, ProtocolError
from nats.protocol.parser import Parser

from ..port import Message
from .messages import received

logger: logging.Logger = logging.getLogger("perdure.jetstream")

LINE_BYTES = 1024 * 1024
"""The longest line: a greeting lists a cluster's addresses; subjects are below 4 KiB."""
BURST_BYTES = 8 * 1024
"""Enough to be written at once, some twenty commits: a system call takes as long as making one."""
HEADERS = 1_000
"""Lines of a block that are read; perdure's messages have ten at most. The server lets through as
many as fit into a message, and each takes a microsecond or two."""
SHORT = 64
"""Characters of a name or a status that may be remembered."""
HEADER_BYTES = len(b"NATS/1.0\r\n\r\n")
"""The shortest block of headers."""

_MESSAGE = re.compile(rb"(H)?MSG ([^ \r\n]+) (\d+) (?:([^ \r\n]*) )?(?(1)(\d+) )(\d+)\r\n")
"""`MSG subject sid [reply] size`; `HMSG` with the size of its headers before the whole size. The
server writes two blanks for an empty reply where it acknowledges a part of a restore (2.15.1)."""


_STATUS = re.compile(r"NATS/1\.0 (\d{3})(?: (.*))?\Z")
_NAME = re.compile(r"[\x21-\x7e]+")
"""A header's name, without its colon."""
_SPACE = " \t\r\n\x0b\x0c"

Handler: TypeAlias = Callable[[Message], None]


class Reader(Client):
    """nats-py's client, on a strict parser."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[int, Handler] = {}
        self.on_error: Callable[[str], bool] | None = None
        self._ps = StrictParser(self)
        self._socket: asyncio.WriteTransport | None = None
        self._soon = False  # what is put is written in the loop's next round

    def put(self, frame: bytes) -> None:
        """Send a whole line of the protocol, after all that was sent before.

        It is lost if the connection is; the caller bounds what waits (`pending_data_size`).
        """
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        if self._pending_data_size >= BURST_BYTES and self._writable():
            self._write()
        elif not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        """Write what was put since the last round. nats-py has a task for that, which takes three
        times as long; but it waits for a socket that is full."""
        self._soon = False
        if not self._pending:
            return
        queue: Any = self._flush_queue
        if self._writable():
            self._write()
        elif queue.empty():  # else nats-py's flusher is about to send all there is
            queue.put_nowait(asyncio.get_running_loop().create_future())

    def _connect_command(self) -> bytes:
        """What logs in, password and all: so only on a line as secret as was asked for.

        nats-py itself goes on in clear with a server that offers no TLS, or with whoever stands
        between and leaves the offer out.
        """
        server = self._current_server
        scheme = server.uri.scheme if server is not None else ""
        secret = scheme == "tls" or ("tls" in self.options and scheme not in ("ws", "wss"))
        if secret and not self._server_info.get("tls_required"):
            raise Error("TLS was asked for, and the server offers none: nothing was sent to it")
        return super()._connect_command()

    def hasten(self) -> None:
        """Let what is put go out in bursts, once connected.

        nats-py's flusher is a task, so without this hundreds of commits, or their answers, leave
        together when all are made: whoever waits for them does nothing meanwhile, and then has
        all of them at once.
        """
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if writer is not None:  # a WebSocket has none
            self._socket = writer.transport
            # uvloop writes at once what is beyond this mark, all else when its round is over
            self._socket.set_write_buffer_limits(high=BURST_BYTES // 2)

    def _writable(self) -> bool:
        """Whether the socket takes everything: else it would wait where nothing bounds it."""
        socket = self._socket
        if socket is None or socket.is_closing():  # nats-py hears of its end a moment later
            return False
        return socket.get_write_buffer_size() == 0

    def _write(self) -> None:
        transport: Any = self._transport
        burst, self._pending, self._pending_data_size = self._pending, [], 0
        try:
            transport.writelines(burst)
        except (RuntimeError, OSError, AttributeError) as error:
            # The connection is gone and what was sent with it; so it is for nats-py's flusher.
            logger.debug("not written: %r", error)

    async def listen(self, subject: str, handler: Handler) -> Subscription:
        """Subscribe a plain function that never waits. Raises what nats-py's `subscribe` does."""

        async def early(message: Any) -> None:
            """One that came before `subscribe` returned, which may wait for nats-py's flusher."""
            handler(received(message.subject, message.reply, message.data, message.headers))

        subscription = await self.subscribe(  # pyright: ignore[reportUnknownMemberType]
            subject, cb=early
        )
        self.handlers[subscription._id] = handler  # pyright: ignore[reportPrivateUsage]
        return subscription

    async def leave(self, subscription: Subscription) -> None:
        """Listen no more."""
        self.handlers.pop(subscription._id, None)  # pyright: ignore[reportPrivateUsage]
        await subscription.unsubscribe()

    def take(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> bool:
        """A whole message came; False if it is one of nats-py's own subscriptions."""
        handler = self.handlers.get(sid)
        if handler is None:
            return False
        to, answer = subject.decode(errors="replace"), reply.decode(errors="replace")
        try:
            if headers is None:
                handler(Message(to, data, answer))
            else:
                handler(received(to, answer, data, headers_of(headers)))
        except (Exception, asyncio.CancelledError):
            # Either would end nats-py's reader of this connection.
            logger.exception("a handler of %s failed", subject)
        return True

    def taken(self, error: str) -> bool:
        """The server said that something is wrong; False if that is for nats-py."""
        return self.on_error is not None and self.on_error(error)


def headers_of(block: bytes) -> dict[str, str]:
    """The headers in a block, those whose name is one, and as headers, too, what its first line
    says: `Status` and `Description`.

    nats-py takes several times as long, by looking at each character of a name alone. A cold
    entity's log comes as messages with eight headers each, and that was most of their cost; an
    idle runner hears little but the statuses that show that its pulls are open.
    """
    first, *lines = block.decode("utf-8", "replace").split("\r\n", HEADERS)[:HEADERS]
    headers: dict[str, str] = {}
    for line in lines:
        before, colon, value = line.partition(":")
        if colon and (name := (_known_name if len(before) <= SHORT else _name)(before)):
            headers[name] = value.strip(_SPACE)
    headers.update((_known_status if len(first) <= SHORT else _status)(first))
    return headers


def _status(line: str) -> tuple[tuple[str, str], ...]:
    """What the first line of a block says: `NATS/1.0 100 Idle Heartbeat`."""
    match = _STATUS.match(line)
    if match is None:
        return ()
    status = ("Status", match[1])
    return (status, ("Description", match[2])) if match[2] else (status,)


def _name(text: str) -> str:
    """A header's name, empty for what can't be one."""
    name = text.strip(_SPACE)
    return name if _NAME.fullmatch(name) else ""


# The same few come again and again. Strangers choose them, too, so long ones aren't kept.
_known_status = lru_cache(maxsize=256)(_status)
_known_name = lru_cache(maxsize=256)(_name)


class StrictParser(Parser):
    """Divides what the server sends into messages and signals."""

    nc: Any
    buf: bytearray

    async def parse(self, data: bytes = b"") -> None:
        """Take what came, and pass on all that is complete. Raises ProtocolError."""
        buffer, client = self.buf, self.nc
        buffer.extend(data)
        begin = 0
        try:
            while begin < len(buffer):
                found = _MESSAGE.match(buffer, begin)
                if found is None:
                    end = self._line_end(begin)
                    if end < 0:
                        return
                    line = bytes(buffer[begin:end])
                    begin = end + 2
                    await self._signal(line)
                    continue
                _, subject, sid, reply, header_size, size = found.groups(b"")
                start = found.end()
                end = start + int(size)
                if len(buffer) < end + 2:
                    return
                body = start + int(header_size) if header_size else start
                headers = _headers(bytes(buffer[start:body])) if header_size else None
                payload = bytes(buffer[body:end])
                begin = end + 2
                number = int(sid)
                if not client.take(number, subject, reply, payload, headers):
                    to, answer = _text(subject), _text(reply)
                    await client._process_msg(number, to, answer, payload, headers)
        finally:
            del buffer[:begin]

    def _line_end(self, begin: int) -> int:
        """Where the line ends that begins there; -1 if its end is missing."""
        end = self.buf.find(b"\r\n", begin)
        if end < 0 and len(self.buf) - begin > LINE_BYTES:
            raise ProtocolError
        return end

    async def _signal(self, line: bytes) -> None:
        """Take a line that is no message."""
        word, _, rest = line.partition(b" ")
        match word:
            case b"PING":
                await self.nc._process_ping()
            case b"PONG":
                await self.nc._process_pong()
            case b"INFO":
                await self.nc._process_info(_json(rest))
            case b"-ERR":
                text = rest.decode(errors="replace").strip()
                if not self.nc.taken(text):  # in lower case a subject would be another's
                    await self.nc._process_err(text.lower())
            case b"+OK":
                pass
            case _:
                raise ProtocolError


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
