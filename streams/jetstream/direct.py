"""Direct get (ADR-31): messages from any replica, alone or in batches; what it gives may be stale.

Nothing here says that something doesn't exist: an empty answer only means that the leader has to
be asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec

from ..commit import MARK, Stored
from ..port import Forbidden, Message, Unreachable
from .api import TIMEOUT_S, parse_time
from .connection import Connection
from .denials import Denials
from .link import Link

BATCH = 500
"""Messages in one request; the server's own limit is 1,024."""
BATCH_BYTES = 4 * 1024**2
"""Bytes in one request: what a reader holds in memory at most."""
COMPLETE = ("204", "404")
"""How the server ends a batch that it gave in full, and one of nothing."""

TTL = "Nats-TTL"
"""How long the server keeps a message (ADR-43)."""

OPERATION = "KV-Operation"
MARKERS = ("DEL", "PURGE")
"""What another tool leaves in a key-value bucket in place of a removed value."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message of any stream, with its subject."""

    sequence: int
    time_ns: int  # the server's timestamp
    subject: str
    data: bytes
    mark: str | None  # the header MARK, if there is one
    removed: bool = False  # it is a marker in a key-value bucket
    ttl_s: int | None = None  # after which the server removes it

    @property
    def token(self) -> str:
        """The last token of its subject: an escaped id, or should be."""
        return self.subject.rpartition(".")[2]

    @property
    def stored(self) -> Stored:
        """The same as a message of a log."""
        return Stored(self.sequence, self.time_ns, self.data, self.mark)


async def one(connection: Connection, stream: str, query: dict[str, Any]) -> Stored | None:
    """One message, None if this replica hasn't got it. Raises Unreachable."""
    message = await raw(connection, stream, query)
    return None if message is None else _stored(message)


async def raw(connection: Connection, stream: str, query: dict[str, Any]) -> Message | None:
    """The same, as it came. Raises Unreachable."""
    subject = f"{connection.api}DIRECT.GET.{stream}"
    data = msgspec.json.encode(query)
    message = await connection.request(subject, data, timeout_s=TIMEOUT_S)
    return message if "Nats-Sequence" in (message.headers or {}) else None


async def batch(
    connection: Connection, stream: str, subject: str, *, after: int, bytes: int = BATCH_BYTES
) -> list[Stored]:
    """The first messages of a subject beyond a sequence, in order and without a gap.

    As many as fit into one request of that many bytes, one at least; empty if this replica has
    none. Raises Unreachable.
    """
    found = await _batch(connection, stream, subject, after, bytes)
    return [_stored(message) for message in found]


async def records(
    connection: Connection, stream: str, subject: str, *, after: int
) -> list[Record]:
    """The same of a subject with wildcards, so of many entities in the order of the stream."""
    found = await _batch(connection, stream, subject, after, BATCH_BYTES)
    return [_record(message) for message in found]


async def _batch(
    connection: Connection, stream: str, subject: str, after: int, bytes: int
) -> list[Message]:
    query = {"seq": after + 1, "next_by_subj": subject, "batch": BATCH, "max_bytes": bytes}
    return (await _collect(connection, stream, query)).found


async def latest(connection: Connection, stream: str, subject: str, most: int) -> list[Record]:
    """The last message of each subject that a wildcard stands for.

    Raises Unreachable, also if only some came: who is missing would seem to be gone.
    """
    query = {"multi_last": [subject], "batch": most}
    collected = await _collect(connection, stream, query)
    if collected.end not in COMPLETE:
        raise Unreachable(f"{subject} was not listed in full: {collected.end or 'no end came'}")
    return [_record(message) for message in collected.found]


async def _collect(connection: Connection, stream: str, query: dict[str, Any]) -> _Batch:
    subject = f"{connection.api}DIRECT.GET.{stream}"
    collected = _Batch(connection.live(), connection.denials, subject)
    inbox = connection.inbox(collected.receive)
    connection.bind(collected)
    try:
        if not connection.send(subject, msgspec.json.encode(query), f"{inbox}.b"):
            raise Unreachable("too much waits to be sent")
        await collected.done
    finally:
        connection.unbind(collected)
        connection.forget(inbox)
    return collected


class _Batch:
    """The answers to one request, as they come."""

    def __init__(self, link: Link, denials: Denials, subject: str) -> None:
        loop = asyncio.get_running_loop()
        self.found: list[Message] = []
        self.end: str = ""  # the status that ended it, by the server's word
        self.done: asyncio.Future[None] = loop.create_future()
        self._last = "0"  # the sequence of the newest; the server's word for none before
        self._link = link
        self._loop = loop
        self._denials, self._subject, self._began = denials, subject, loop.time()
        self._deadline = loop.time() + TIMEOUT_S

    def receive(self, message: Message) -> None:
        headers = message.headers or {}
        if "Nats-Sequence" not in headers:
            if not self.done.done():
                self.end = headers.get("Status", "")
            self._finish()  # the end of the batch, or an error
        elif headers.get("Nats-Last-Sequence") != self._last:
            self._finish()  # one was lost on the way
        elif not self.done.done():
            self.found.append(message)
            self._last = headers["Nats-Sequence"]
            self._deadline = self._loop.time() + TIMEOUT_S

    def tick(self, now: float) -> None:
        why = self._denials.told("publish", self._subject, self._began)
        if why is not None and not self.done.done():  # maybe another's: just as good
            self.done.set_exception(Forbidden(why))
        if now > self._deadline or not self._link.alive:
            self._finish()

    def ended(self, reason: str) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _stored(message: Message) -> Stored:
    headers = message.headers or {}
    time_ns = parse_time(headers["Nats-Time-Stamp"])
    return Stored(int(headers["Nats-Sequence"]), time_ns, message.data, headers.get(MARK))


def _record(message: Message) -> Record:
    found, headers = _stored(message), message.headers or {}
    return Record(
        found.sequence,
        found.time_ns,
        headers.get("Nats-Subject", ""),
        found.data,
        found.mark,
        headers.get(OPERATION) in MARKERS,
        _seconds(headers.get(TTL)),
    )


def _seconds(text: str | None) -> int | None:
    """Of a header as this library writes it; another tool's may be of any form."""
    digits = (text or "").removesuffix("s")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
