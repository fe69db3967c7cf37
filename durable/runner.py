"""The runner: hosts entity types in this process and owns their shards.

It provisions the types' streams, listens to asks, info and pings, owns each shard
(durable/shard.py), lets idle entities leave memory, and drains when it is told to stop. In this
version a runner takes every shard of its types; a second one takes over and the first stands by.
"""

from __future__ import annotations

import asyncio
import logging
import typing
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from ..entities.duration import seconds
from ..entities.entity import Entity
from ..entities.settings import Settings
from ..streams.asks import TypeInfo, encode_info, raw, reply_allowed
from ..streams.port import Message, Session, Subscription, Unreachable
from ..streams.subjects import Sharding
from .activation import loop_time
from .answers import Answers
from .clocks import check_clock
from .host import Host, Load
from .notices import Notices
from .residents import Residents
from .shard import Shard
from .stats import Stats
from .undelivered import Undelivered, pause_s

logger: logging.Logger = logging.getLogger("perdure.runner")

ID_BYTES = 6
"""Random bytes in a runner's id: unique among all that ever run."""

READY_S = 10.0
"""How long `start` waits for the first terms, in seconds; asks are answered before."""


@dataclass(frozen=True, slots=True)
class RunnerStatistics:
    """A runner at one moment."""

    runner: str
    shards: int  # owned
    terms: int  # running
    entities: int  # in memory
    asks: int  # waiting
    bytes: int  # of their payloads
    cached: int  # bytes that the entities in memory hold, about
    evicted_early: int  # keys forgotten before `dedup_window`, since `dedup_keys` were newer


class Hosted:
    """One entity type in this runner."""

    def __init__(self, host: Host, sharding: Sharding) -> None:
        self.host: Host = host
        self.sharding: Sharding = sharding
        answers = Answers(host.session.asks, host.settings.reply_prefixes)
        notices = Notices(host.entity.name, host.runner, sharding.shards)
        self.shards: list[Shard] = [
            Shard(host, sharding, n, answers, notices) for n in range(sharding.shards)
        ]
        self._undelivered = Undelivered(host, sharding)
        self._schemas = schemas_of(host.entity)
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Own every shard, then answer plain asks and info."""
        for shard in self.shards:
            shard.start()
        asks, subjects = self.host.session.asks, self.host.session.subjects
        name = self.host.entity.name
        self._subscriptions = [
            await asks.subscribe(subjects.ask(name, "*"), self._plain_ask),
            await asks.subscribe(subjects.info(name), self._info),
        ]

    async def drain(self) -> None:
        """Take nothing more and finish what is in hand."""
        for subscription in self._subscriptions:
            await subscription.stop()
        await asyncio.gather(*(shard.drain() for shard in self.shards))

    async def release(self) -> None:
        """Give the shards back."""
        await asyncio.gather(*(shard.release() for shard in self.shards))
        await self.host.registrar.close()

    async def look(self) -> bool:
        """Take out of the command stream what nobody is given; whether there may be more."""
        term = self.shards[0].term
        if term is None or term.ended.done():
            return False  # whoever holds the first shard looks
        try:
            return await self._undelivered.look(term)
        except Unreachable as error:
            logger.warning(
                "can't look through the command stream of %s: %s",
                self.host.entity.name,
                error,
                extra={"action": "undelivered.unreachable"},
            )
            return False

    def _plain_ask(self, message: Message) -> None:
        """A bare ask is heard by all runners and taken by the owner only."""
        shard = self.shards[self.sharding.shard(message.subject.rpartition(".")[2])]
        if shard.owned:
            shard.ask(message)

    def _info(self, message: Message) -> None:
        host = self.host
        if self.shards[0].outdated:  # what it knows would lead callers astray
            return
        answer = TypeInfo(
            host.entity.name,
            self.sharding.generation,
            self.sharding.shards,
            host.runner,
            host.now_ms(),
            self._schemas,
        )
        if self.shards[0].answers.allowed(message.reply):
            host.session.asks.send(message.reply, encode_info(answer))


class Runner:
    """Hosts entity types over one session, from `start` to `drain`."""

    def __init__(
        self,
        session: Session,
        entities: Sequence[Entity[Any, Any]],
        settings: Settings,
        *,
        id: str | None = None,
    ) -> None:
        names = [entity.name for entity in entities]
        if len(set(names)) != len(names):
            raise ValueError(f"two entities have the same name among {', '.join(names)}")
        for entity in entities:
            if entity.flows:
                raise ValueError(
                    f"entity {entity.name!r} has flows, which this version can't run yet"
                )
        self.id: str = id or session.entropy.token(ID_BYTES)
        self._session, self._entities, self._settings = session, tuple(entities), settings
        residents = Residents(settings.resident_entities, settings.cache_bytes)
        self._load = Load(settings.runner_capacity, residents)
        self._hosted: list[Hosted] = []
        self._stats = Stats(self.id, session, self._load)
        self._heard: list[Subscription] = []
        self._timers: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"Runner({self.statistics()})"

    def statistics(self) -> RunnerStatistics:
        """What it owns and holds."""
        shards = [shard for hosted in self._hosted for shard in hosted.shards]
        return RunnerStatistics(
            self.id,
            sum(shard.owned for shard in shards),
            sum(shard.term is not None for shard in shards),
            sum(len(shard.activations) for shard in shards),
            self._load.asks,
            self._load.bytes,
            self._load.residents.bytes,
            self._load.evicted_early,
        )

    async def start(self) -> None:
        """Own the types' shards. Raises Incompatible, Unreachable."""
        session, subjects = self._session, self._session.subjects
        self._heard = [await session.asks.subscribe(subjects.member(self.id), self._pong)]
        for entity in self._entities:
            # Before it looks how the type is cut: who cuts it anew halts it first, then asks here.
            hears = await session.asks.subscribe(subjects.resize(entity.name), self._hosts)
            self._heard.append(hears)
            sharding = await session.provision(entity.name)
            if not self._hosted:
                await check_clock(session, self._settings)
            host = Host(session, entity, self._settings, self.id, self._load)
            hosted = Hosted(host, sharding)
            self._hosted.append(hosted)
            await hosted.start()
        create = asyncio.get_running_loop().create_task
        self._timers = [
            create(_lasting(work)) for work in (self._sweeps, self._progress, self._looks)
        ]
        self._heard.append(await session.asks.subscribe(subjects.stats, self._tell_stats))
        waits = [create(_wait(s.ready)) for hosted in self._hosted for s in hosted.shards]
        _, late = await asyncio.wait(waits, timeout=READY_S)
        for task in late:
            task.cancel()
        hosted_types = ", ".join(entity.name for entity in self._entities)
        logger.info(
            "runner %s hosts %s",
            self.id,
            hosted_types,
            extra={"action": "runner.start", "runner": self.id},
        )

    async def drain(self) -> None:
        """Take nothing more, finish what is in hand within `drain_timeout`, and leave."""
        limit = seconds(self._settings.drain_timeout)
        try:
            async with asyncio.timeout(limit):
                await asyncio.gather(*(hosted.drain() for hosted in self._hosted))
        except TimeoutError:
            logger.warning(
                "runner %s didn't finish within %g s: what is left goes to the next owner",
                self.id,
                limit,
                extra={"action": "runner.drain_late"},
            )
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        await asyncio.gather(*(hosted.release() for hosted in self._hosted))
        for subscription in self._heard:
            await subscription.stop()
        logger.info("runner %s stopped", self.id, extra={"action": "runner.stop"})

    @property
    def busy(self) -> bool:
        """Whether a command or a question is on its way."""
        shards = [shard for hosted in self._hosted for shard in hosted.shards]
        return any(a.busy for shard in shards for a in shard.activations.values())

    async def abandon(self) -> None:
        """End at once, as a killed process does: nothing is answered, acked or given back.

        Its session must be cut before, else what is on its way would still arrive.
        """
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        for hosted in self._hosted:
            await asyncio.gather(*(shard.abandon() for shard in hosted.shards))
            await hosted.host.group.abandon()
            await hosted.host.registrar.close()

    def passivate_all(self) -> None:
        """Let every idle entity leave memory now."""
        self._sweep(idle_s=0.0)

    def _pong(self, message: Message) -> None:
        if reply_allowed(message.reply, self._settings.reply_prefixes):
            self._session.asks.send(message.reply, b"")

    def _hosts(self, message: Message) -> None:
        if reply_allowed(message.reply, self._settings.reply_prefixes):
            self._session.asks.send(message.reply, self.id.encode())

    def _tell_stats(self, message: Message) -> None:
        if reply_allowed(message.reply, self._settings.reply_prefixes):
            types = ((hosted.host.entity.name, hosted.shards) for hosted in self._hosted)
            self._session.asks.send(message.reply, self._stats.answer(types))

    async def _sweeps(self) -> None:
        idle_s = seconds(self._settings.passivate_after)
        while True:
            await asyncio.sleep(min(5.0, max(0.1, idle_s / 4)))
            self._sweep(idle_s)

    def _sweep(self, idle_s: float) -> None:
        now, now_ms = loop_time(), self._session.clock.now_ns() // 1_000_000
        for hosted in self._hosted:
            for shard in hosted.shards:
                shard.sweep(now, now_ms, idle_s)

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(seconds(self._settings.ack_progress))
            for hosted in self._hosted:
                for shard in hosted.shards:
                    shard.progress()

    async def _looks(self) -> None:
        more = False
        while True:
            await asyncio.sleep(pause_s(more))
            more = any([await hosted.look() for hosted in self._hosted])


async def _lasting(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Work that has no end; a bug in it must not be its end either."""
    while True:
        try:
            await work()
        except Exception:  # it pauses before it does anything, so this doesn't spin
            logger.exception("%s failed", work.__name__, extra={"action": "runner.failed"})


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def schemas_of(entity: Entity[Any, Any]) -> Raw:
    """JSON Schemas of what a type takes, answers and records, for `info`."""
    messages = [c.message for c in entity.contracts.values()]
    (commands, events), components = msgspec.json.schema_components(
        (_union(messages), _union(list(entity.events))), ref_template="#/$defs/{name}"
    )
    return raw({"commands": commands, "events": events, "$defs": components})


def _union(types: list[Any]) -> Any:
    return typing.Union[tuple(types)]  # noqa: UP007
