"""Tells of a session in memory, and its consumers. What is meant is said in `streams/port.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ...entities.address import Address
from ...entities.duration import seconds
from ...entities.settings import Settings
from ..port import ConsumerInfo, Delivery, Halted, NoAck, PublishAnswer, Unreachable
from ..subjects import escape
from .connection import Connection
from .queue import Queue

if TYPE_CHECKING:
    from .broker import MemoryBroker, Streams


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

    async def consumers(self, entity: str, of: Callable[[str], bool] = bool) -> list[ConsumerInfo]:
        """All consumers of the type's command stream, or `of` these names."""
        self._connection.demand()
        queue = self._streams.queues.get(entity)
        found = [] if queue is None else queue.consumers()
        return await self._connection.answer([info for info in found if of(info.name)])

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
        if queue.halted_by is not None:
            raise Unreachable(str(Halted(entity, queue.sharding)))
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

    async def oldest(self, entity: str, *, after: int) -> Delivery | None:
        """The first stored tell beyond a sequence."""
        self._connection.demand()
        queue = self._streams.queues.get(entity)
        return await self._connection.answer(None if queue is None else queue.oldest(after))

    async def count(self, entity: str) -> int:
        """How many tells are stored."""
        self._connection.demand()
        queue = self._streams.queues.get(entity)
        return await self._connection.answer(0 if queue is None else len(queue))

    async def remove(self, entity: str, sequence: int) -> None:
        """Delete a stored tell; it may be gone already."""
        self._connection.demand()
        queue = self._streams.queues.get(entity)
        if queue is not None:
            queue.delete_tell(sequence)
        await self._connection.answer(None)

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
