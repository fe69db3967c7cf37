"""The command stream and its consumers with the weather in between; see ports.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from perdure.entities.address import Address
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import (
    Consumer,
    ConsumerInfo,
    Delivery,
    NoAck,
    PublishAnswer,
    Refused,
    Unreachable,
)

from .far import Broker
from .wire import Wire

NOTICE_S = 4.0
"""How late a lost consumer may be noticed: a backend needs up to two heartbeats of silence."""


class SimulatedConsumer:
    """A consumer whose deliveries are in order, but may miss some, or be late all together."""

    def __init__(
        self,
        wire: Wire,
        world: Broker,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._world = world
        self.inner: Consumer | None = None
        self.name = ""
        self._wire = wire
        self._epoch = wire.epoch
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._arrival = 0.0
        self.forgotten = False  # it was created, but its creator never heard of it

    # -- from the broker --------------------------------------------------------------------------
    def deliver(self, delivery: Delivery) -> None:
        weather = self._wire.weather
        if weather.strikes(weather.climate.gap, "delivery lost"):
            # Its credit comes back, as a backend asks again when its pull expires or falls silent.
            assert self.inner is not None
            self._wire.at_broker(NOTICE_S, self.inner.grant, 1)
            return
        self._wire.say(self._wire.process.name, "gets", delivery.handle)
        self._world.delivered(delivery)
        now = self._wire.process.loop.time()
        self._arrival = max(self._arrival, now + weather.delay_s())
        self._wire.at_process(self._arrival - now, self._on_delivery, delivery)

    def lose(self, reason: str) -> None:
        wire = self._wire
        if self.forgotten:
            return
        late = reason == "deleted" and wire.weather.strikes(0.3, "late notice")
        if late:
            wire.overdue.append(self._on_lost)
        # Not through the connection: the backend finds out by itself.
        wire.process.later(NOTICE_S if late else 0.001, self._on_lost, reason)

    # -- to the broker ----------------------------------------------------------------------------
    def grant(self, credit: int) -> None:
        inner = self._there()
        if self._epoch == self._wire.epoch:
            self._wire.at_broker(self._wire.weather.delay_s(), inner.grant, credit)

    def ack(self, handle: str) -> None:
        inner, weather = self._there(), self._wire.weather
        self._wire.say(self._wire.process.name, "acks", handle)
        if self._epoch != self._wire.epoch:
            # The port's rule is for the backend too: nothing of an earlier connection is sent.
            weather.note("ack of an earlier connection")
        elif not weather.strikes(weather.climate.lost_acks, "lost ack"):
            self._wire.at_broker(weather.delay_s(), inner.ack, handle)

    def progress(self, handle: str) -> None:
        inner, weather = self._there(), self._wire.weather
        if self._epoch == self._wire.epoch and not weather.lost("progress"):
            self._wire.at_broker(weather.delay_s(), inner.progress, handle)

    async def info(self) -> ConsumerInfo | None:
        return await self._wire.call("consumer info", self._there().info)

    async def stop(self) -> None:
        inner = self._there()
        self._wire.at_broker(self._wire.weather.delay_s(), lambda: _run(self._wire, inner))

    def _there(self) -> Consumer:
        assert self.inner is not None
        return self.inner


def _run(wire: Wire, inner: Consumer) -> None:
    wire.process.loop.create_task(inner.stop(), context=wire.world)


class SimulatedCommands:
    def __init__(self, inner: MemorySession, wire: Wire, world: Broker) -> None:
        self._inner, self._wire, self._world = inner.commands, wire, world

    async def publish(
        self, address: Address, data: bytes, headers: Mapping[str, str] | None = None
    ) -> PublishAnswer:
        async def at_broker() -> PublishAnswer:
            if self._world.tells_refused:
                self._wire.weather.note("tell refused")
                return Refused(10077, "maximum bytes exceeded")
            return await self._inner.publish(address, data, headers)

        try:
            return await self._wire.call("tell", at_broker)
        except Unreachable as error:
            return NoAck(str(error))

    async def consumers(self, entity: str, of: Callable[[str], bool] = bool) -> list[ConsumerInfo]:
        return await self._wire.call("consumers", lambda: self._inner.consumers(entity, of))

    async def create(
        self,
        entity: str,
        shard: int,
        name: str,
        *,
        owner: str,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[str], None],
    ) -> Consumer:
        consumer = SimulatedConsumer(self._wire, self._world, on_delivery, on_lost)

        async def at_broker() -> SimulatedConsumer:
            consumer.inner = await self._inner.create(
                entity,
                shard,
                name,
                owner=owner,
                on_delivery=consumer.deliver,
                on_lost=consumer.lose,
            )
            consumer.name = name
            self._wire.say("TERM", name, owner)
            return consumer

        try:
            return await self._wire.call("create", at_broker)
        except Unreachable:
            consumer.forgotten = True
            raise

    async def delete(self, entity: str, name: str) -> None:
        await self._wire.call("delete", lambda: self._inner.delete(entity, name))

    async def by_sequence(self, entity: str, sequence: int) -> Delivery | None:
        return await self._wire.call(
            "tell by sequence", lambda: self._inner.by_sequence(entity, sequence)
        )

    async def oldest(self, entity: str, *, after: int) -> Delivery | None:
        return await self._wire.call(
            "oldest tell", lambda: self._inner.oldest(entity, after=after)
        )

    async def count(self, entity: str) -> int:
        return await self._wire.call("count tells", lambda: self._inner.count(entity))

    async def remove(self, entity: str, sequence: int) -> None:
        await self._wire.call("remove tell", lambda: self._inner.remove(entity, sequence))
