"""Archives: a whole stream as bytes, and back, with sequences and timestamps as they were.

The server makes and reads them (`$JS.API.STREAM.SNAPSHOT` and `RESTORE`, what `nats stream backup`
uses, too): one message after another up to the last at the time of the request, so of a stream
that only grows it is a prefix, and of a work queue it leaves out what was acknowledged meanwhile.
Consumers are left out: terms belong to runners that are gone, and the server restores a consumer
with a wrong count of what waits for it (measured with 2.15.1).

Memory is bounded by the window: the server sends so much, and goes on when what it sent was
written and acknowledged. A damaged archive makes the server leave a stream with a part of it: so
compare its hash before, and remove what failed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from ..port import Incompatible, Message, Unreachable
from .api import Response, call
from .connection import Connection
from .errors import NO_STREAM
from .link import Link

CHUNK_BYTES = 128 * 1024
"""In one message: the server's own default, far below its limit of a message."""
WINDOW_BYTES = 4 * 1024**2
"""Sent and not yet acknowledged: what an archive holds in memory at most. The server's own default
is twice as much."""
SILENCE_S = 30.0
"""Between two chunks, or for an answer to one, in seconds: longer than a leader's election (4 to
8 s), of a server that looks for its next message in a large stream, too."""
END_S = 300.0
"""For the end of a restore, in seconds: the server then opens the stream, on all replicas."""

HEARD_S = 0.05
HEARD_TRIES = 100
"""How often and with what pause, in seconds, the first chunk is sent to nobody: in a cluster the
word that a server listens may come after its answer that it does (measured with three)."""

Write: TypeAlias = Callable[[bytes], None]


class State(msgspec.Struct, frozen=True):
    """What a stream held when an archive of it was begun, in the server's words."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    first_ts: str = ""
    last_seq: int = 0
    last_ts: str = ""


class Archived(Response, frozen=True):
    """What the server says of a stream that it archives, or has restored."""

    config: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    state: State = State()


class _Place(Response, frozen=True):
    deliver_subject: str = ""


async def archive(connection: Connection, stream: str, write: Write) -> Archived | None:
    """Have a stream archived; None if there is none. `write` is called in a thread.

    Raises Unreachable, Incompatible, and what `write` raises.
    """
    chunks = _Chunks(connection.live())
    # A subject of its own: for one that only a wildcard hears the server waits for 2 s.
    inbox = connection.pull_inbox()
    listener = await connection.subscribe(inbox, chunks.receive)
    connection.bind(chunks)
    try:
        body = {
            "deliver_subject": inbox,
            "no_consumers": True,
            "chunk_size": min(CHUNK_BYTES, connection.max_payload),
            "window_size": WINDOW_BYTES,
        }
        path = f"STREAM.SNAPSHOT.{stream}"
        told = await call(
            connection, path, body, Archived, accept=(NO_STREAM,), timeout_s=SILENCE_S
        )
        if told.error is not None:
            return None
        while (message := await chunks.next()).data:
            await asyncio.to_thread(write, message.data)
            if message.reply and not connection.send(message.reply, b""):
                raise Unreachable(f"{stream}: too much waits to be sent")
        problem = _problem(message)
        if problem:
            raise Unreachable(f"{stream}: the server ended its archive: {problem}")
    finally:
        connection.unbind(chunks)
        await connection.unsubscribe(listener)
    return told


async def unarchive(
    connection: Connection, stream: str, told: Archived, chunks: Iterable[bytes]
) -> Archived:
    """Make a stream of an archive, in the configuration of `told`; what it is then.

    Raises Unreachable, Incompatible: then there may be a stream with a part of it.
    """
    body = {"config": {**told.config, "name": stream}, "state": msgspec.to_builtins(told.state)}
    place = await call(connection, f"STREAM.RESTORE.{stream}", body, _Place, timeout_s=SILENCE_S)
    tries = HEARD_TRIES
    for chunk in chunks:
        answer = await connection.request(place.deliver_subject, chunk, timeout_s=SILENCE_S)
        while answer.no_responders and tries:
            await connection.pause(HEARD_S)
            answer = await connection.request(place.deliver_subject, chunk, timeout_s=SILENCE_S)
            tries -= 1
        tries = 0  # who has heard the first one hears all
        _require(stream, answer)
        if answer.data:  # the end, before its time
            return _restored(stream, answer)
    ending = asyncio.ensure_future(connection.request(place.deliver_subject, b"", timeout_s=END_S))
    try:
        answer = await asyncio.shield(ending)
    except asyncio.CancelledError:  # else the stream might come to be after it was removed
        await asyncio.wait({ending})
        raise
    _require(stream, answer)
    return _restored(stream, answer)


def _require(stream: str, answer: Message) -> None:
    if answer.no_responders:
        raise Unreachable(f"{stream}: the server gave up its restore")


def _restored(stream: str, answer: Message) -> Archived:
    try:
        told = msgspec.json.decode(answer.data, type=Archived)
    except msgspec.DecodeError as error:
        raise Unreachable(f"{stream}: not the end of a restore: {error}") from None
    if told.error is not None:
        raise Incompatible(f"{stream}: {told.error}")
    return told


def _problem(end: Message) -> str:
    """Why an archive ended before its time; nothing if the server knows of no reason.

    With 2.15.1 an end has no headers where all went well, and a Status where it didn't (measured:
    408, No Flow Response). So there is nothing that could be required: only a restore proves that
    an archive is whole.
    """
    headers = end.headers or {}
    status = headers.get("Status", "204")
    return "" if status == "204" else f"{headers.get('Description', 'no reason given')} ({status})"


class _Chunks:
    """The chunks of one archive, as they come."""

    def __init__(self, link: Link) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._found: deque[Message] = deque()
        self._came = asyncio.Event()
        self._lost = ""
        self._number = 0  # of the last chunk that has one
        self._deadline = self._loop.time() + SILENCE_S

    async def next(self) -> Message:
        """The next one. Raises Unreachable."""
        self._deadline = self._loop.time() + SILENCE_S
        while not self._found:
            if self._lost:
                raise Unreachable(self._lost)
            self._came.clear()
            await self._came.wait()
        return self._found.popleft()

    def receive(self, message: Message) -> None:
        """They are numbered in the subjects of their acknowledgements."""
        number = message.reply.rpartition(".")[2]
        if number.isdigit():
            if int(number) != self._number + 1:
                self._end("a part of the archive was lost on its way")
            self._number = int(number)
        if not self._lost:
            self._found.append(message)
        self._came.set()

    def tick(self, now: float) -> None:
        if not self._link.alive:
            self._end("the connection was lost")
        elif now > self._deadline and not self._found:
            self._end(f"nothing came of the archive for {SILENCE_S:g} s")

    def ended(self, reason: str) -> None:
        self._end("the connection was lost")

    def _end(self, why: str) -> None:
        self._lost = self._lost or why
        self._came.set()
