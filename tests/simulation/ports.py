"""A session whose every port has the weather in between; the code under test gets nothing else.

What each method means is said in `streams/port.py`, and the faults stay within that: what must be
right is never wrong here, only late or unreachable; what may be stale, lost or repeated is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from perdure.entities.address import Address
from perdure.entities.clock import Clock, ahead_s
from perdure.entities.entropy import Entropy
from perdure.streams.commit import Sealed, Stored
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import (
    Append,
    AppendAnswer,
    Appended,
    Asks,
    Commands,
    Consumer,
    ConsumerInfo,
    DeadLetters,
    Delivery,
    Entry,
    Ids,
    Inbox,
    Log,
    Members,
    Message,
    NoAck,
    PublishAnswer,
    Refused,
    Snapshots,
    Subscription,
    Unreachable,
)
from perdure.streams.subjects import Sharding

from .loop import Process
from .staging import Staging
from .wire import Wire

EPOCH_NS = 1_790_000_000 * 10**9
"""When every world begins; any moment in the service life of a 42-bit Snowflake would do."""

NOTICE_S = 4.0
"""How late a lost consumer may be noticed: a backend needs up to two heartbeats of silence."""


class SimulatedClock:
    """The time as one process sees it: the world's, and a skew that may jump either way."""

    def __init__(self, seconds: Callable[[], float], skew_s: float = 0.0) -> None:
        self._seconds = seconds
        self.skew_s = skew_s

    def now_ns(self) -> int:
        return EPOCH_NS + round((self._seconds() + self.skew_s) * 1e9)


class SeededEntropy:
    """Randomness of one process."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def token(self, size: int) -> str:
        return self._random.randbytes(size).hex()

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class Broker(Protocol):
    """The world at the other end: what its nemesis breaks for everybody, and what it watches."""

    log_refuses: bool
    dead_letters_full: bool
    tells_refused: bool
    older_snapshots: dict[tuple[str, str | None], list[bytes]]
    staging: Staging

    def appended(
        self, process: Process, answer: AppendAnswer, appends: Sequence[Append]
    ) -> None: ...

    def met(self, situation: str) -> None: ...

    def delivered(self, delivery: Delivery) -> None: ...

    def sent(self, data: bytes) -> None: ...


class SimulatedLog:
    def __init__(self, inner: MemorySession, wire: Wire, world: Broker) -> None:
        self._inner, self._wire, self._world = inner.log, wire, world
        self._unknown: set[str] = set()  # marks of batches that nobody acknowledged

    async def append(self, address: Address, commit: Sealed, *, expected: int) -> AppendAnswer:
        one = Append(address, commit, expected)

        async def at_broker() -> AppendAnswer:
            return await self._store(
                [one], lambda: self._inner.append(address, commit, expected=expected)
            )

        try:
            return await self._wire.call("append", at_broker)
        except Unreachable as error:
            return NoAck(str(error))

    async def append_batch(self, appends: Sequence[Append]) -> AppendAnswer:
        async def store() -> AppendAnswer:
            return await self._store(appends, lambda: self._inner.append_batch(appends))

        async def at_broker() -> AppendAnswer:
            answer = await self._world.staging.take(self._wire, store)
            if isinstance(answer, Refused):
                self._world.met("batch refused")
            return answer

        try:
            return await self._wire.call("append batch", at_broker, hangs=True)
        except Unreachable as error:
            self._unknown.update(one.commit.mark for one in appends)
            return NoAck(str(error))

    async def _store(
        self, appends: Sequence[Append], store: Callable[[], Awaitable[AppendAnswer]]
    ) -> AppendAnswer:
        """At the broker: what one or more appends come to."""
        say = self._wire.say
        if self._world.log_refuses:
            self._wire.weather.note("log refused")
            return Refused(10077, "insufficient storage")
        answer = await store()
        self._world.appended(self._wire.process, answer, appends)
        if isinstance(answer, Appended):
            for sequence, one in enumerate(appends, answer.sequence - len(appends) + 1):
                say("LOG", one.address.id, sequence, one.expected, one.commit.data)
        else:
            say("NOT IN LOG", answer, *(f"{one.address.id} {one.expected}" for one in appends))
        return answer

    async def last(self, address: Address) -> Stored | None:
        stored = await self._wire.call("last", lambda: self._inner.last(address))
        if stored is not None and stored.mark in self._unknown:
            self._world.met("batch unknown, adopted")
        return stored

    async def count(self, address: Address) -> int:
        return await self._wire.call("count", lambda: self._inner.count(address))

    async def by_sequence(self, entity: str, sequence: int) -> Stored | None:
        return await self._wire.call(
            "log by sequence", lambda: self._inner.by_sequence(entity, sequence)
        )

    async def read(self, address: Address, *, after: int, upto: int) -> AsyncIterator[Stored]:
        async def at_broker() -> list[Stored]:
            return [s async for s in self._inner.read(address, after=after, upto=upto)]

        stored = await self._wire.call("read", at_broker)
        broken = self._wire.weather.lost("half a read")
        for message in stored[: len(stored) // 2] if broken else stored:
            yield message
        if broken:
            raise Unreachable("read: broken off")

    async def follow(self, address: Address, *, after: int) -> AsyncIterator[Stored]:
        arrived: asyncio.Queue[Stored | Unreachable] = asyncio.Queue()

        async def at_broker() -> None:
            try:
                async for stored in self._inner.follow(address, after=after):
                    self._wire.process.later(0.001, arrived.put_nowait, stored)
            except Unreachable as error:
                self._wire.process.later(0.001, arrived.put_nowait, error)

        task = self._wire.process.loop.create_task(at_broker(), context=self._wire.world)
        try:
            while True:
                found = await arrived.get()
                if isinstance(found, Unreachable):
                    raise found
                yield found
        finally:
            task.cancel()


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

    async def consumers(self, entity: str) -> list[ConsumerInfo]:
        return await self._wire.call("consumers", lambda: self._inner.consumers(entity))

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


class SimulatedInbox:
    def __init__(self, inner: Inbox, wire: Wire) -> None:
        self._inner, self._wire = inner, wire

    def subject(self, suffix: str) -> str:
        return self._inner.subject(suffix)

    def close(self) -> None:
        self._wire.world.run(self._inner.close)


class SimulatedSubscription:
    """Deaf at once; the broker hears of it later, and always, since it forgets the deaf."""

    def __init__(self, on_message: Callable[[Message], None], wire: Wire) -> None:
        self.inner: Subscription | None = None
        self._on_message, self._wire = on_message, wire
        self.deaf = False

    def hear(self, message: Message) -> None:
        if not self.deaf:
            self._on_message(message)

    async def stop(self) -> None:
        self.deaf = True
        inner = self.inner
        assert inner is not None
        self._wire.process.loop.create_task(inner.stop(), context=self._wire.world)


class SimulatedAsks:
    def __init__(self, inner: MemorySession, wire: Wire, world: Broker) -> None:
        self._inner, self._wire, self._world = inner.asks, wire, world

    async def subscribe(self, subject: str, on_message: Callable[[Message], None]) -> Subscription:
        if subject.endswith(".members"):
            on_message = self._unless_deaf(on_message)
        subscription = SimulatedSubscription(on_message, self._wire)

        async def at_broker() -> Subscription:
            heard = self._hearing(subscription.hear)
            subscription.inner = await self._inner.subscribe(subject, heard)
            return subscription

        try:
            return await self._wire.call("subscribe", at_broker)
        except Unreachable:
            subscription.deaf = True  # nobody holds it
            raise

    def inbox(self, on_message: Callable[[Message], None]) -> Inbox:
        heard = self._hearing(on_message)
        return SimulatedInbox(self._wire.world.run(self._inner.inbox, heard), self._wire)

    def send(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        def at_broker() -> None:
            self._inner.send(subject, data, reply=reply, headers=headers)

        weather = self._wire.weather
        if subject.endswith(".members") and self._wire.deaf:
            return
        self._wire.say("send", subject, data)
        self._world.sent(data)
        if not self._wire.up or weather.lost("core message"):
            return
        self._wire.at_broker(weather.delay_s(), at_broker)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        if not self._wire.up:
            raise Unreachable("no connection")
        answered: asyncio.Future[Message] = self._wire.process.loop.create_future()

        def on_message(message: Message) -> None:
            if not answered.done():
                answered.set_result(message)

        inbox = self.inbox(on_message)
        try:
            self.send(subject, data, reply=inbox.subject("0"))
            async with asyncio.timeout(timeout_s):
                return await answered
        except TimeoutError:
            raise Unreachable(f"no answer on {subject} in {timeout_s} s") from None
        finally:
            inbox.close()

    def _unless_deaf(self, on_message: Callable[[Message], None]) -> Callable[[Message], None]:
        def heard(message: Message) -> None:
            if not self._wire.deaf:
                on_message(message)

        return heard

    def _hearing(self, on_message: Callable[[Message], None]) -> Callable[[Message], None]:
        def heard(message: Message) -> None:
            weather = self._wire.weather
            if weather.lost("core message at its end"):
                return
            self._wire.at_process(weather.delay_s(), on_message, message)
            # Repeated here and not where it is sent: "no responders" is the server's word that
            # nobody got a message, and nobody may get it then.
            if weather.strikes(weather.climate.repeat, "core message repeated"):
                self._wire.at_process(weather.delay_s() * 3, on_message, message)

        return heard


class SimulatedSnapshots:
    """Any version that was ever stored may come back, or none."""

    def __init__(self, inner: MemorySession, wire: Wire, random: Random, world: Broker) -> None:
        self._inner, self._wire, self._random, self._world = inner.snapshots, wire, random, world

    async def get(self, address: Address, part: str | None = None) -> bytes | None:
        weather = self._wire.weather
        older = self._world.older_snapshots.get((address.id, part), [])
        if weather.strikes(weather.climate.stale, "stale snapshot"):
            return self._random.choice([None, *older])
        return await self._wire.call("snapshot", lambda: self._inner.get(address, part))

    async def put(self, address: Address, data: bytes, part: str | None = None) -> bool:
        async def at_broker() -> bool:
            self._world.older_snapshots.setdefault((address.id, part), []).append(data)
            return await self._inner.put(address, data, part)

        try:
            return await self._wire.call("put snapshot", at_broker)
        except Unreachable:
            return False


class SimulatedMembers:
    def __init__(self, inner: MemorySession, wire: Wire) -> None:
        self._inner, self._wire = inner.members, wire

    async def get(self, key: str) -> Entry | None:
        return await self._wire.call("member", lambda: self._inner.get(key))

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expected: int | None = None,
        ttl_s: int | None = None,
    ) -> int | None:
        return await self._wire.call(
            "put member",
            lambda: self._inner.put(key, value, expected=expected, ttl_s=ttl_s),
        )

    async def delete(self, key: str, *, upto: int | None = None) -> None:
        await self._wire.call("delete member", lambda: self._inner.delete(key, upto=upto))

    async def entries(self, head: str) -> dict[str, Entry]:
        if self._wire.deaf:
            raise Unreachable("it is deaf")
        return await self._wire.call("members", lambda: self._inner.entries(head))


class SimulatedDeadLetters:
    def __init__(self, inner: MemorySession, wire: Wire, world: Broker) -> None:
        self._inner, self._wire, self._world = inner.dead, wire, world

    async def put(self, address: Address, data: bytes) -> bool:
        return await self._put(lambda: self._inner.put(address, data))

    async def put_raw(self, entity: str, token: str, data: bytes) -> bool:
        return await self._put(lambda: self._inner.put_raw(entity, token, data))

    async def _put(self, operation: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        if self._world.dead_letters_full:
            self._wire.weather.note("dead letters full")
            return False
        try:
            return await self._wire.call("dead letter", operation)
        except Unreachable:
            return False


class SimulatedIds:
    def __init__(self, inner: MemorySession, wire: Wire) -> None:
        self._inner, self._wire = inner.ids, wire

    async def add(self, entity: str, page: str, data: bytes, *, whole: bool) -> PublishAnswer:
        try:
            return await self._wire.call(
                "register", lambda: self._inner.add(entity, page, data, whole=whole)
            )
        except Unreachable as error:
            return NoAck(str(error))

    async def last(self, entity: str) -> int:
        return await self._wire.call("last ids", lambda: self._inner.last(entity))

    async def read(self, entity: str, *, after: int, upto: int) -> list[Stored]:
        return await self._wire.call(
            "read ids", lambda: self._inner.read(entity, after=after, upto=upto)
        )

    async def logged(self, entity: str, *, skip: int) -> list[str]:
        return await self._wire.call("logged ids", lambda: self._inner.logged(entity, skip=skip))


class SimulatedSession:
    """One connection of one process."""

    def __init__(
        self,
        inner: MemorySession,
        wire: Wire,
        *,
        clock: Clock,
        entropy: Entropy,
        world: Broker,
        random: Random,
    ) -> None:
        self.inner = inner
        self.wire = wire
        self.clock = clock
        self.entropy = entropy
        self.subjects = inner.subjects
        self.log: Log = SimulatedLog(inner, wire, world)
        self.commands: Commands = SimulatedCommands(inner, wire, world)
        self.asks: Asks = SimulatedAsks(inner, wire, world)
        self.snapshots: Snapshots = SimulatedSnapshots(inner, wire, random, world)
        self.members: Members = SimulatedMembers(inner, wire)
        self.dead: DeadLetters = SimulatedDeadLetters(inner, wire, world)
        self.ids: Ids = SimulatedIds(inner, wire)

    @property
    def connected(self) -> bool:
        return self.wire.up

    @property
    def epoch(self) -> int:
        return self.wire.epoch

    @property
    def max_payload(self) -> int:
        return self.inner.max_payload

    async def sharding(self, entity: str) -> Sharding | None:
        return await self.wire.call("sharding", lambda: self.inner.sharding(entity))

    async def provision(self, entity: str) -> Sharding:
        return await self.wire.call("provision", lambda: self.inner.provision(entity))

    async def halt(self, entity: str, token: str) -> Sharding:
        return await self.wire.call("halt", lambda: self.inner.halt(entity, token))

    async def recut(self, entity: str, sharding: Sharding, token: str) -> None:
        await self.wire.call("recut", lambda: self.inner.recut(entity, sharding, token))

    async def clock_ahead_s(self) -> float:
        before = self.clock.now_ns()
        server_ns = await self.wire.call("server's time", self._server_ns)
        return ahead_s(before, server_ns, self.clock.now_ns())

    async def _server_ns(self) -> int:
        return round(self.inner.clock.now_ns() - await self.inner.clock_ahead_s() * 1e9)

    async def close(self) -> None:
        self.wire.at_broker(0.001, self._close)

    def _close(self) -> None:
        self.wire.process.loop.create_task(self.inner.close(), context=self.wire.world)
