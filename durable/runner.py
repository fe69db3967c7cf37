"""The runner: hosts entity types in this process and owns their shards.

It provisions the types' streams, listens to asks and info, looks after each shard
(durable/shard.py), lets idle entities leave memory, and drains when it is told to stop. Which
shards are its own follows from who else is there (durable/membership.py, durable/assignment.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import typing
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, structs

from ..entities.duration import seconds
from ..entities.entity import Entity
from ..entities.settings import Settings
from ..streams.asks import TypeInfo, encode_info, raw, reply_allowed
from ..streams.members import (
    Drain,
    Draining,
    HandOver,
    Hosting,
    Member,
    Release,
    Released,
    Word,
    encode_word,
)
from ..streams.port import Incompatible, Message, Session, Subscription, Unreachable
from ..streams.subjects import Sharding
from .activation import Activation, loop_time
from .answers import Answers
from .assignment import label_lacked, owners
from .clocks import check_clock
from .host import Host, Load
from .membership import Membership
from .notices import Notices
from .relay import Relaying
from .residents import Residents
from .scheduling import Scheduling
from .secret import resume_secrets
from .shard import LINGER_S, Shard
from .singleton import Singletons
from .stats import RunnerStats, Stats
from .undelivered import Undelivered, pause_s

logger: logging.Logger = logging.getLogger("perdure.runner")

ID_BYTES = 6
"""Random bytes in a runner's id: unique among all that ever run."""

LISTEN_S = 1.0
"""How long plain asks and info wait for the first terms, in seconds. A bare ask that comes before
a shard has an owner is lost; where terms can't begin, asks are still to be answered."""

READY_S = 10.0
"""How long `start` waits for the first terms beyond that, in seconds."""


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
        session, prefixes = host.session, host.settings.reply_prefixes
        answers = Answers(session.asks, prefixes, host.asking.push, host.counts)
        self.notices: Notices = Notices(host.entity.name, host.runner, sharding.shards)
        self.shards: list[Shard] = [
            Shard(host, sharding, n, answers, self.notices) for n in range(sharding.shards)
        ]
        self._owners: tuple[str, ...] = ("",) * sharding.shards  # by the view
        self._undelivered = Undelivered(host, sharding)
        self._schemas = schemas_of(host.entity)
        self.scheduling: Scheduling = Scheduling(host, self._owns)
        self._subscriptions: list[Subscription] = []

    def _owns(self, token: str) -> bool:
        return self.shards[self.sharding.shard(token)].term is not None

    def start(self) -> None:
        """Look after every shard."""
        for shard in self.shards:
            shard.start()

    async def listen(self) -> None:
        """Answer plain asks and info. Before, callers hear that nobody is there yet, and wait."""
        asks, subjects = self.host.session.asks, self.host.session.subjects
        name = self.host.entity.name
        self._subscriptions = [
            await asks.subscribe(subjects.ask(name, "*"), self._plain_ask),
            await asks.subscribe(subjects.info(name), self._info),
        ]

    def arrange(self) -> None:
        """Take the shards that are this runner's by the members' view, give the others away."""
        host, before = self.host, self._owners
        name, members = host.entity.name, host.view.members()
        self._owners = owners(name, self.sharding, members)
        mine = [owner == host.runner for owner in self._owners]
        for shard, own, former in zip(self.shards, mine, before, strict=True):
            shard.assign(own, former=former)
        self.notices.assigned(number for number, own in enumerate(mine) if own)
        self.notices.lacked(label_lacked(name, self.sharding, members))

    async def away(self) -> None:
        """Return when no shard is here any more."""
        for shard in self.shards:
            await shard.away.wait()

    async def release(self) -> None:
        """Give back what is left, and answer nobody any more."""
        for subscription in self._subscriptions:
            await subscription.stop()
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
        """A bare ask is heard by all runners and taken by the owner only.

        While the shard is handed over nobody can take it, and the caller shall not wait for that.
        """
        shard = self.shards[self.sharding.shard(message.subject.rpartition(".")[2])]
        if shard.owned or shard.leaving:
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
        drained: asyncio.Event | None = None,
        place: tuple[str, int] | None = None,
    ) -> None:
        """`drained` is set when an operator tells it to leave; then whoever made it drains it.

        `place`: the machine's name and the process id, for people; else those of this process.
        """
        names = [entity.name for entity in entities]
        if len(set(names)) != len(names):
            raise ValueError(f"two entities have the same name among {', '.join(names)}")
        self.id: str = id or session.entropy.token(ID_BYTES)
        self._session, self._entities, self._settings = session, tuple(entities), settings
        residents = Residents(settings.resident_entities, settings.cache_bytes)
        self._load = Load(settings.runner_capacity, residents)
        self._hosted: list[Hosted] = []
        self._leaving: asyncio.Task[None] | None = None
        self._drained = drained or asyncio.Event()
        self._place = place or (socket.gethostname(), os.getpid())
        self.membership: Membership = Membership(
            session,
            settings,
            Member(runner=self.id, edition=1, weight=settings.weight, labels=settings.labels),
            on_change=self._arrange,
            on_expelled=self._expelled,
            on_word=self._word,
        )
        self.singletons: Singletons = Singletons(session, settings, self.membership)
        self._stats = Stats(session, self._load, self.membership, self.singletons)
        self._relaying: Relaying | None = None  # of timers
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
        session, membership = self._session, self.membership
        for entity in self._entities:
            if (entity.flows or entity.schedules) and not self._settings.timers:
                why = "has flows or schedules, which need timers: the setting `timers` is off"
                raise Incompatible(f"{entity.name} {why}")
            # Before it looks how the type is cut: who cuts it anew halts it first, then asks here.
            hears = await session.asks.subscribe(session.subjects.resize(entity.name), self._hosts)
            self._heard.append(hears)
            sharding = await session.provision(entity.name)
            if not self._hosted:
                await check_clock(session, self._settings)
            view, secrets = membership.view, await self._secrets(entity)
            host = Host(
                session, entity, self._settings, self.id, self._load, view, secrets=secrets
            )
            hosted = Hosted(host, sharding)
            self._hosted.append(hosted)
            hosted.start()
        if self._settings.timers:
            self._relaying = Relaying(session)
            self._stats.relays(self._relaying.lateness)
            await self._relaying.start()
        membership.own = self._described()
        await membership.join()
        self._arrange()
        create = asyncio.get_running_loop().create_task
        self._timers = [
            create(_lasting(work)) for work in (self._sweeps, self._progress, self._looks)
        ]
        stats = session.subjects.stats
        self._heard.append(await session.asks.subscribe(stats, self._tell_stats))
        waits = [create(_wait(s.ready)) for hosted in self._hosted for s in hosted.shards]
        _, late = await asyncio.wait(waits, timeout=LISTEN_S)
        for hosted in self._hosted:
            await hosted.listen()
        if late:
            _, late = await asyncio.wait(late, timeout=READY_S)
        for task in late:
            task.cancel()
        await self._schedule()
        hosted_types = ", ".join(entity.name for entity in self._entities)
        logger.info(
            "runner %s hosts %s",
            self.id,
            hosted_types,
            extra={"action": "runner.start", "runner": self.id},
        )

    async def _schedule(self) -> None:
        """See to the schedules of those types that have some."""
        for hosted in self._hosted:
            if hosted.host.entity.schedules:
                await hosted.scheduling.look()
                lasting = _lasting(hosted.scheduling.lasting)
                self._timers.append(asyncio.get_running_loop().create_task(lasting))

    async def _stop_flows(self) -> None:
        """What is on its way for flows is done by others, or comes again."""
        if self._relaying is not None:
            await self._relaying.stop()
        for hosted in self._hosted:
            await hosted.host.asking.stop()
            await hosted.host.forgetting.stop()

    async def _secrets(self, entity: Entity[Any, Any]) -> tuple[bytes, ...]:
        return await resume_secrets(self._session, self._settings) if entity.flows else ()

    async def drain(self) -> None:
        """Hand the shards to the others, finish what is in hand within `drain_timeout`, leave."""
        limit = seconds(self._settings.drain_timeout)
        try:
            async with asyncio.timeout(limit):
                await self.membership.change(leaving=True)
                await asyncio.gather(
                    self.singletons.away(), *(hosted.away() for hosted in self._hosted)
                )
                if len(self.membership.view.members()) > 1:
                    await asyncio.sleep(LINGER_S)  # asks are sent elsewhere meanwhile
        except TimeoutError:
            logger.warning(
                "runner %s didn't finish within %g s: what is left goes to the next owner",
                self.id,
                limit,
                extra={"action": "runner.drain_late"},
            )
        except Exception:  # a defect of one part; the others are left in order all the same
            logger.exception(
                "runner %s couldn't hand over what it has", self.id,
                extra={"action": "runner.drain_failed"},
            )  # fmt: skip
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        await self.singletons.release()
        await asyncio.gather(*(hosted.release() for hosted in self._hosted))
        await self._stop_flows()
        await self.membership.leave()
        for subscription in self._heard:
            await subscription.stop()
        logger.info("runner %s stopped", self.id, extra={"action": "runner.stop"})

    @property
    def busy(self) -> bool:
        """Whether a command or a question is on its way."""
        return any(activation.busy for activation in self._activations())

    @property
    def at_work(self) -> bool:
        """The same, but for who only waits for what isn't on its way: a flow's outcome."""
        relays = self._relaying is not None and self._relaying.busy
        asks = any(hosted.host.asking.busy for hosted in self._hosted)
        return relays or asks or any(activation.at_work for activation in self._activations())

    def _activations(self) -> Iterator[Activation]:
        for hosted in self._hosted:
            for shard in hosted.shards:
                yield from shard.activations.values()

    async def abandon(self) -> None:
        """End at once, as a killed process does: nothing is answered, acked or given back.

        Its session must be cut before, else what is on its way would still arrive.
        """
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        await self._stop_flows()
        await self.membership.abandon()
        await self.singletons.abandon()
        for hosted in self._hosted:
            await asyncio.gather(*(shard.abandon() for shard in hosted.shards))
            await hosted.host.group.abandon()
            await hosted.host.registrar.close()

    def passivate_all(self) -> None:
        """Let every idle entity leave memory now."""
        self._sweep(idle_s=0.0)

    # -- among the others -----------------------------------------------------------------------
    def _described(self) -> Member:
        """What the others are told of this runner."""
        types = tuple(
            Hosting(
                entity=hosted.host.entity.name,
                generation=hosted.sharding.generation,
                version=hosted.host.entity.code,
                label=hosted.host.entity.label or "",
            )
            for hosted in self._hosted
        )
        return structs.replace(
            self.membership.own,
            types=types,
            machine=self._settings.machine_id,
            host=self._place[0],
            process=self._place[1],
            since=self._session.clock.now_ns() // 1_000_000,
        )

    def _arrange(self) -> None:
        """Who is there changed: shards and singletons may have other owners."""
        for hosted in self._hosted:
            hosted.arrange()
        self.singletons.arrange()

    def _expelled(self) -> None:
        self.singletons.expelled()
        for hosted in self._hosted:
            for shard in hosted.shards:
                shard.expelled()

    def _word(self, word: Word, message: Message) -> None:
        """Something that another runner, or an operator, wants of this one."""
        if not reply_allowed(message.reply, self._settings.reply_prefixes):
            return
        match word:
            case Release():
                shard = self._shard_of(word)
                if shard is not None:
                    shard.asked_back(word.runner, message.reply)
                else:
                    self._session.asks.send(message.reply, encode_word(Released()))
            case HandOver():
                self.singletons.asked(word, message.reply)
            case Drain():
                self._session.asks.send(message.reply, encode_word(Draining()))
                logger.info("runner %s was told to drain", self.id, extra={"action": "drain"})
                self._leaving = asyncio.get_running_loop().create_task(self._leave())
            case _:
                pass

    async def _leave(self) -> None:
        await self.membership.change(leaving=True)
        self._drained.set()

    def _shard_of(self, word: Release) -> Shard | None:
        for hosted in self._hosted:
            sharding = hosted.sharding
            if hosted.host.entity.name == word.entity and sharding.generation == word.generation:
                return hosted.shards[word.shard] if 0 <= word.shard < sharding.shards else None
        return None

    def _hosts(self, message: Message) -> None:
        if reply_allowed(message.reply, self._settings.reply_prefixes):
            self._session.asks.send(message.reply, self.id.encode())

    def _tell_stats(self, message: Message) -> None:
        if reply_allowed(message.reply, self._settings.reply_prefixes):
            self._session.asks.send(message.reply, self._stats.answer(self._types()))

    def _types(self) -> Iterator[tuple[str, Sequence[Shard]]]:
        return ((hosted.host.entity.name, hosted.shards) for hosted in self._hosted)

    @property
    def session(self) -> Session:
        """That over which it hosts."""
        return self._session

    def stats(self) -> RunnerStats:
        """What it would answer on `perdure.stats`, at most a quarter of a second old."""
        return self._stats.look(self._types())

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


@lru_cache(maxsize=64)
def schemas_of(entity: Entity[Any, Any]) -> Raw:
    """JSON Schemas of what a type takes, answers and records, for `info`."""
    messages = [c.message for c in entity.contracts.values()]
    (commands, events), components = msgspec.json.schema_components(
        (_union(messages), _union(list(entity.events))), ref_template="#/$defs/{name}"
    )
    return raw({"commands": commands, "events": events, "$defs": components})


def _union(types: list[Any]) -> Any:
    return typing.Union[tuple(types)]  # noqa: UP007
