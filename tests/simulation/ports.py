"""A session whose every port has the weather in between; the code under test gets nothing else.

What each method means is said in `streams/port.py`, and the faults stay within that: what must be
right is never wrong here, only late or unreachable; what may be stale, lost or repeated is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from random import Random
from typing import Any

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
    DeadLetters,
    Entry,
    Ids,
    Log,
    Members,
    NoAck,
    PublishAnswer,
    Refused,
    Schedules,
    Snapshots,
    Unreachable,
)
from perdure.streams.subjects import Sharding

from .core import SimulatedAsks
from .far import Broker
from .tells import SimulatedCommands
from .timers import SimulatedSchedules
from .wire import Wire

EPOCH_NS = 1_790_000_000 * 10**9
"""When every world begins; any moment in the service life of a 42-bit Snowflake would do."""


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
        self.schedules: Schedules = SimulatedSchedules(inner, wire)

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
