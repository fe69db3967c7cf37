"""Timers on JetStream: scheduled messages (NATS ADR-51) in one stream, and who relays them.

A timer is a message on a subject of its own that names when it is due, and where it goes then,
within the same stream. What is due waits for one of those who pull from the shared consumer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ...entities.address import Address
from ..port import (
    Appended,
    Firing,
    Incompatible,
    Message,
    NoAck,
    Pending,
    Refused,
    Unreachable,
)
from ..subjects import Subjects, escape
from ..topology import LATEST_MS
from . import topology
from .api import ConsumerResponse, Response, call, lookup
from .connection import Connection, Publish
from .direct import records
from .errors import NO_STREAM, publish_answer
from .messages import headers_block
from .pull import Pull
from .storing import answered

CONSUMER = "relay"
"""The consumer that all runners share."""
ACK_WAIT_NS = 10 * 1_000_000_000
"""After which a firing is given to another runner: what one holds that is killed comes so much
later. Passing one on takes milliseconds, or as long as a stream has no leader (4 to 8 s)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class JetStreamRelay:
    """`port.Relay` on JetStream."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        on_firing: Callable[[Firing], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.pull: Pull = Pull(connection, stream, CONSUMER, self._arrived, self._ended)
        self._on_firing, self._on_lost = on_firing, on_lost

    def grant(self, credit: int) -> None:
        """Allow this many more."""
        self.pull.grant(credit)

    def ack(self, handle: str) -> None:
        """It was passed on."""
        self.pull.send(handle, b"+ACK")

    async def stop(self) -> None:
        """Take nothing more."""
        await self.pull.close()

    def _arrived(self, message: Message) -> None:
        parts = message.subject.split(".")
        self._on_firing(Firing(message.reply, parts[-3], parts[-2], message.data))

    def _ended(self, reason: str) -> None:
        if reason != "closed":
            self._on_lost(reason)


class JetStreamSchedules:
    """`port.Schedules` on JetStream."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection, self._subjects = connection, subjects
        self._offset_ms: float | None = None  # the server's clock before the loop's

    async def provision(self) -> None:
        """Create the consumer; the stream is one of those that all types share. Raises
        Incompatible, Unreachable."""
        await self._consumer()
        await self.measure()

    def now_ms(self) -> int:
        """The server's clock: what it said last, carried on by a clock that nobody sets."""
        assert self._offset_ms is not None, "provision() measures it"
        return int(asyncio.get_running_loop().time() * 1000 + self._offset_ms)

    async def measure(self) -> None:
        """Ask the server for its time. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        server_ns = await topology.server_time_ns(self._connection, self._subjects)
        # What it said may be a little old when it arrives: so nothing is due too early.
        self._offset_ms = server_ns / 1e6 - loop.time() * 1000

    async def _consumer(self) -> None:
        subjects = self._subjects
        stream, subject = subjects.time_stream, subjects.due("*", "*", "*")
        body = {
            "stream_name": stream,
            "config": {
                "name": CONSUMER,
                "durable_name": CONSUMER,
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_NS,
                "max_deliver": -1,
                "max_ack_pending": -1,
                "filter_subject": subject,
            },
        }
        path = f"CONSUMER.CREATE.{stream}.{CONSUMER}.{subject}"
        await call(self._connection, path, body, ConsumerResponse)

    async def arm(self, address: Address, timer: str, due_ms: int, data: bytes) -> bool:
        """Set a timer; whether the server confirmed."""
        token, subjects = escape(address.id), self._subjects
        headers = {
            "Nats-Schedule": f"@at {_rfc3339(due_ms)}",
            "Nats-Schedule-Target": subjects.due(address.entity, token, timer),
        }
        subject = subjects.later(address.entity, token, timer)
        result = await answered(self._connection, Publish(subject, data, headers_block(headers)))
        if isinstance(result, (Refused, NoAck)) or result.no_responders:
            return False
        answer = publish_answer(result.data, stream=subjects.time_stream)
        return isinstance(answer, Appended)

    async def disarm(self, address: Address, timer: str) -> None:
        """Forget it, if it hasn't fired."""
        subject = self._subjects.later(address.entity, escape(address.id), timer)
        path = f"STREAM.PURGE.{self._subjects.time_stream}"
        try:
            body = {"filter": subject}
            await call(self._connection, path, body, Response, accept=(NO_STREAM,))
        except (Unreachable, Incompatible):
            return  # it fires, and nobody waits for it

    async def pending(self, entity: str, *, after: int) -> list[Pending]:
        """A page of the timers that haven't fired. Raises Unreachable."""
        stream, subject = self._subjects.time_stream, self._subjects.later(entity, "*", "*")
        query = {"seq": after + 1, "next_by_subj": subject}
        first = await lookup(self._connection, stream, query)
        if first is None:  # or there is no stream yet
            return []
        found = await records(self._connection, stream, subject, after=after)
        if not found:  # a stale replica
            return [Pending(first.seq, first.subject.split(".")[-2], first.stored().data)]
        return [Pending(r.sequence, r.subject.split(".")[-2], r.data) for r in found]

    async def relay(
        self, on_firing: Callable[[Firing], None], on_lost: Callable[[str], None]
    ) -> JetStreamRelay:
        """Take part in relaying. Raises Unreachable."""
        try:
            await self._consumer()
        except Incompatible as error:
            raise Unreachable(str(error)) from None
        relay = JetStreamRelay(self._connection, self._subjects.time_stream, on_firing, on_lost)
        await relay.pull.open(self._connection.pull_inbox())
        return relay


def _rfc3339(due_ms: int) -> str:
    """A time as the server reads it."""
    due = _EPOCH + timedelta(milliseconds=max(0, min(due_ms, LATEST_MS)))
    return due.isoformat(timespec="milliseconds").replace("+00:00", "Z")
