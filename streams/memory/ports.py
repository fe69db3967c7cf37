"""The ports of a session in memory. What each method means is said in `streams/port.py`.

Each does its work on the broker at once and gives the answer a turn of the loop later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING

from ...entities.address import Address
from ...entities.duration import seconds
from ...entities.entropy import Entropy
from ...entities.settings import Settings
from ..commit import Sealed, Stored
from ..port import (
    AppendAnswer,
    ConsumerInfo,
    Delivery,
    Entry,
    Message,
    NoAck,
    PublishAnswer,
    Refused,
    Unreachable,
)
from ..subjects import escape
from .connection import Connection
from .core import Listener, check_subject
from .logs import LogStore
from .queue import Queue

if TYPE_CHECKING:
    from .broker import MemoryBroker, Streams

BATCH = 500
"""Messages that one step of a read gives, as many as the other backend asks for at once."""
MARK_BYTES = 120
"""About what the two headers of an append take of `max_payload`."""


class MemoryLog:
    """The logs."""

    def __init__(self, broker: MemoryBroker, streams: Streams, connection: Connection) -> None:
        self._broker = broker
        self._streams = streams
        self._connection = connection
        self._sleeping: dict[asyncio.Future[None], None] = {}

    async def append(self, address: Address, commit: Sealed, *, expected: int) -> AppendAnswer:
        """Store a commit if the entity's last sequence is exactly `expected`."""
        token = escape(address.id)
        if not self._connection.up:
            return NoAck("no connection")
        log = self._streams.logs.get(address.entity)
        answer: AppendAnswer
        if log is None:
            answer = Refused(503, f"no log of {address.entity}")
        elif len(commit.data) + MARK_BYTES > self._broker.max_payload:
            answer = Refused(10054, "message size exceeds maximum allowed")
        else:
            now = self._broker.clock.now_ns()
            answer = log.append(token, commit.data, commit.mark, now, expected=expected)
        try:
            return await self._connection.answer(answer)
        except Unreachable as error:
            return NoAck(str(error))

    async def last(self, address: Address) -> Stored | None:
        """The entity's last message."""
        token = escape(address.id)
        self._connection.demand()
        log = self._streams.logs.get(address.entity)
        return await self._connection.answer(None if log is None else log.last(token))

    async def by_sequence(self, entity: str, sequence: int) -> Stored | None:
        """One message of the type's log."""
        self._connection.demand()
        log = self._streams.logs.get(entity)
        return await self._connection.answer(None if log is None else log.by_sequence(sequence))

    async def read(self, address: Address, *, after: int, upto: int) -> AsyncIterator[Stored]:
        """The entity's messages with `after` < sequence <= `upto`; never ends before `upto`."""
        token = escape(address.id)
        while after < upto:
            self._connection.demand()
            log = self._log(address)
            batch = await self._connection.answer(log.between(token, after, upto, BATCH))
            if not batch:
                raise Unreachable(f"the log of {address} has no sequence {upto}")
            for stored in batch:
                yield stored
            after = batch[-1].sequence

    async def follow(self, address: Address, *, after: int) -> AsyncIterator[Stored]:
        """The entity's messages beyond the sequence `after`, then live ones."""
        token = escape(address.id)
        while True:
            if self._connection.closed:
                raise Unreachable("the session was closed")
            if not self._connection.up:
                await self._sleep(None, token)
                continue
            log = self._log(address)
            await self._connection.turn()
            for stored in log.between(token, after, None, BATCH):
                after = stored.sequence
                yield stored
            if not log.between(token, after, None, 1):
                await self._sleep(log, token)

    def wake(self) -> None:
        """The connection is new, or ended: whoever waits for a commit has to look."""
        for sleeper in list(self._sleeping):
            _wake(sleeper)

    def _log(self, address: Address) -> LogStore:
        log = self._streams.logs.get(address.entity)
        if log is None:
            raise Unreachable(f"there is no log of {address.entity} yet")
        return log

    async def _sleep(self, log: LogStore | None, token: str) -> None:
        """Until something may be new."""
        sleeper: asyncio.Future[None] = self._connection.loop.create_future()
        self._sleeping[sleeper] = None
        end = log.watch(token, lambda: self._connection.post(_wake, sleeper)) if log else None
        try:
            await sleeper
        finally:
            del self._sleeping[sleeper]
            if end is not None:
                end()


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class MemoryConsumer:
    """The session's end of a consumer: one term of one shard."""

    def __init__(
        self,
        commands: MemoryCommands,
        queue: Queue,
        name: str,
        connection: Connection,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.name = name
        self.connection = connection
        self._commands = commands
        self._queue = queue
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._taking = True
        self._told = False
        self._epoch = connection.epoch

    def grant(self, credit: int) -> None:
        """Allow this many more deliveries."""
        if self._taking and self._bound:
            self._queue.grant(self.name, self, credit)

    def ack(self, handle: str) -> None:
        """Remove the message from the stream."""
        if self._bound:
            self._queue.ack(handle)

    def progress(self, handle: str) -> None:
        """Still at work."""
        if self._bound:
            self._queue.progress(handle)

    async def info(self) -> ConsumerInfo | None:
        """What the broker says; None if the consumer is gone."""
        self.connection.demand()
        return await self.connection.answer(self._queue.info(self.name))

    async def stop(self) -> None:
        """Take nothing more."""
        self._taking = False
        self._queue.detach(self.name, self)
        self._commands.forget(self)

    def detach(self) -> None:
        """The connection breaks: the broker sees that nobody pulls."""
        self._queue.detach(self.name, self)

    def deliver(self, delivery: Delivery) -> None:
        """A message arrives."""
        if self._taking and not self._told:
            self._on_delivery(delivery)

    @property
    def _bound(self) -> bool:
        """Whether acks may go out: only on the connection that it was created on."""
        return self.connection.up and self.connection.epoch == self._epoch and not self._told

    def lost(self, reason: str) -> None:
        """The consumer is this session's no more; told once, and never after `stop`."""
        if self._taking and not self._told:
            self._told = True
            self._commands.forget(self)
            self._on_lost(reason)


class MemoryCommands:
    """The command streams."""

    def __init__(
        self, broker: MemoryBroker, streams: Streams, connection: Connection, settings: Settings
    ) -> None:
        self._broker = broker
        self._streams = streams
        self._connection = connection
        self._ack_wait_s = seconds(settings.ack_wait)
        self._consumers: dict[MemoryConsumer, None] = {}

    async def publish(
        self, address: Address, data: bytes, headers: Mapping[str, str] | None = None
    ) -> PublishAnswer:
        """Store a tell."""
        token = escape(address.id)
        if not self._connection.up:
            return NoAck("no connection")
        answer = self._broker.tell(self._streams, address.entity, token, data, headers)
        try:
            return await self._connection.answer(answer)
        except Unreachable as error:
            return NoAck(str(error))

    async def consumers(self, entity: str) -> list[ConsumerInfo]:
        """All consumers of the type's command stream."""
        self._connection.demand()
        queue = self._streams.queues.get(entity)
        return await self._connection.answer([] if queue is None else queue.consumers())

    async def create(
        self,
        entity: str,
        shard: int,
        name: str,
        *,
        owner: str,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[str], None],
    ) -> MemoryConsumer:
        """A new consumer of one shard, with no credit yet."""
        self._connection.demand()
        queue = self._streams.queues.get(entity)
        if queue is None:
            raise Unreachable(f"there is no command stream of {entity} yet")
        consumer = MemoryConsumer(self, queue, name, self._connection, on_delivery, on_lost)
        queue.create(shard, name, owner=owner, ack_wait_s=self._ack_wait_s, attached=consumer)
        self._consumers[consumer] = None
        return await self._connection.answer(consumer)

    async def delete(self, entity: str, name: str) -> None:
        """Delete a consumer; it may be gone already."""
        self._connection.demand()
        queue = self._streams.queues.get(entity)
        if queue is not None:
            queue.delete(name)
        await self._connection.answer(None)

    async def by_sequence(self, entity: str, sequence: int) -> Delivery | None:
        """A stored tell again."""
        self._connection.demand()
        queue = self._streams.queues.get(entity)
        tell = None if queue is None else queue.by_sequence(sequence)
        return await self._connection.answer(tell)

    def part(self) -> None:
        """The connection breaks or ends: the broker sees that nobody pulls."""
        for consumer in self._consumers:
            consumer.detach()

    def lose(self, reason: str) -> None:
        """Tell all consumers that they are lost."""
        for consumer in list(self._consumers):
            self._connection.post(consumer.lost, reason)

    def forget(self, consumer: MemoryConsumer) -> None:
        """A consumer was told that it is lost."""
        self._consumers.pop(consumer, None)


class MemorySubscription:
    """Something that listens."""

    def __init__(self, broker: MemoryBroker, listener: Listener) -> None:
        self._broker = broker
        self._listener = listener

    async def stop(self) -> None:
        """Listen no more."""
        self._broker.core.forget(self._listener)


class MemoryInbox:
    """A place for answers."""

    def __init__(self, broker: MemoryBroker, prefix: str, listener: Listener) -> None:
        self._broker = broker
        self._prefix = prefix
        self._listener = listener

    def subject(self, suffix: str) -> str:
        """A reply subject below this inbox."""
        return f"{self._prefix}.{suffix}"

    def close(self) -> None:
        """Forget it."""
        self._broker.core.forget(self._listener)


class MemoryAsks:
    """Core NATS."""

    def __init__(self, broker: MemoryBroker, connection: Connection, entropy: Entropy) -> None:
        self._broker = broker
        self._connection = connection
        self._prefix = f"_INBOX.{entropy.token(11)}"
        self._inboxes = 0

    async def subscribe(
        self, subject: str, on_message: Callable[[Message], None]
    ) -> MemorySubscription:
        """Listen; on return the broker knows of it."""
        self._connection.demand()
        listener = self._broker.core.listen(subject, self._connection, on_message)
        return await self._connection.answer(MemorySubscription(self._broker, listener))

    def inbox(self, on_message: Callable[[Message], None]) -> MemoryInbox:
        """A fresh inbox."""
        self._inboxes += 1
        prefix = f"{self._prefix}.{self._inboxes}"
        listener = self._broker.core.listen(f"{prefix}.*", self._connection, on_message)
        return MemoryInbox(self._broker, prefix, listener)

    def send(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish, at most once."""
        check_subject(subject, wildcards=False)
        if self._connection.up and len(data) <= self._broker.max_payload:
            self._broker.publish(self._connection, subject, data, reply, headers)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        """Send and wait for one answer."""
        self._connection.demand()
        loop = self._connection.loop
        answered: asyncio.Future[Message] = loop.create_future()

        def on_message(message: Message) -> None:
            if not answered.done():
                answered.set_result(message)

        def on_timeout() -> None:
            if not answered.done():
                answered.set_exception(Unreachable(f"no answer on {subject} in {timeout_s} s"))

        inbox = self.inbox(on_message)
        timer = loop.call_later(timeout_s, on_timeout)
        try:
            self.send(subject, data, reply=inbox.subject("0"))
            return await answered
        finally:
            timer.cancel()
            inbox.close()


class MemorySnapshots:
    """Snapshots and their parts."""

    def __init__(self, broker: MemoryBroker, streams: Streams, connection: Connection) -> None:
        self._broker = broker
        self._streams = streams
        self._connection = connection

    async def get(self, address: Address, part: str | None = None) -> bytes | None:
        """What is stored."""
        subject = self._subject(address, part)
        self._connection.demand()
        return await self._connection.answer(self._streams.snapshots.get(subject))

    async def put(self, address: Address, data: bytes, part: str | None = None) -> bool:
        """Replace it; whether the broker confirmed."""
        subject = self._subject(address, part)
        if not self._connection.up:
            return False
        fits = len(data) <= self._broker.max_payload and address.entity in self._streams.logs
        if fits:
            self._streams.snapshots[subject] = data
        return await _confirmed(self._connection, fits)

    def _subject(self, address: Address, part: str | None) -> str:
        subject = self._streams.subjects.snapshot(address.entity, escape(address.id), part)
        check_subject(subject, wildcards=False)
        return subject


class MemoryMembers:
    """The members bucket."""

    def __init__(self, streams: Streams, connection: Connection) -> None:
        self._members = streams.members
        self._connection = connection

    async def get(self, key: str) -> Entry | None:
        """The value."""
        self._connection.demand()
        return await self._connection.answer(self._members.get(key))

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int | None:
        """The new revision, or None if `expected` isn't the last one."""
        self._connection.demand()
        return await self._connection.answer(self._members.put(key, value, expected))

    async def delete(self, key: str) -> None:
        """Remove a value."""
        self._connection.demand()
        self._members.delete(key)
        await self._connection.answer(None)


class MemoryDeadLetters:
    """Copies of dead-letter verdicts."""

    def __init__(self, broker: MemoryBroker, streams: Streams, connection: Connection) -> None:
        self._broker = broker
        self._streams = streams
        self._connection = connection

    async def put(self, address: Address, data: bytes) -> bool:
        """Store a copy; an id that can't be escaped is stored under `=`."""
        try:
            token = escape(address.id)
        except ValueError:
            token = "="
        return await self._put(address.entity, token, data)

    async def put_raw(self, entity: str, token: str, data: bytes) -> bool:
        """The same for a token that is no valid id."""
        return await self._put(entity, "=", data)

    async def _put(self, entity: str, token: str, data: bytes) -> bool:
        if not self._connection.up:
            return False
        subject = self._streams.subjects.dead(entity, token)
        fits = len(data) <= self._broker.max_payload
        if fits:
            self._broker.publish(self._connection, subject, data, "", None)
        return await _confirmed(self._connection, fits)


async def _confirmed(connection: Connection, stored: bool) -> bool:
    """Whether the broker's word that it stored something arrives."""
    try:
        return await connection.answer(stored)
    except Unreachable:
        return False
