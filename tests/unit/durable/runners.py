"""Runners that share the keeper's shards, on the memory backend in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import msgspec

from perdure import Entity, Settings
from perdure.durable.assignment import assign
from perdure.durable.runner import Runner
from perdure.entities.address import Address
from perdure.streams.client import Cluster
from perdure.streams.commands import parse_term
from perdure.streams.commit import unseal
from perdure.streams.members import Release, Word, decode_word, encode_word
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Appended, ConsumerInfo, Unreachable
from perdure.streams.subjects import Sharding, escape

from ..streams.virtual import VirtualClock
from .keeper import Add, Keeper, add, keeper
from .peers import PATIENCE_S, Line, until

SHARDS = 4


class Gate:
    """Holds back a session's appends: before they are stored, or before that is told.

    What was sent is carried out though its sender no longer waits for it, as by a server.
    """

    def __init__(self, session: MemorySession) -> None:
        self.holding = 0
        self._shut: Literal["", "store", "answer"] = ""
        self._opens = asyncio.Event()
        log: Any = session.log
        for name in ("append", "append_batch"):
            setattr(log, name, partial(self._send, getattr(log, name)))

    def shut(self, before: Literal["store", "answer"]) -> None:
        self._shut = before

    def open(self) -> None:
        self._shut = ""
        self._opens.set()

    async def _send(self, real: Callable[..., Any], *args: Any, **more: Any) -> Any:
        return await asyncio.shield(asyncio.create_task(self._carry(real, args, more)))

    async def _carry(self, real: Callable[..., Any], args: Any, more: Any) -> Any:
        if self._shut == "store":
            await self._hold()
        answer = await real(*args, **more)
        if self._shut == "answer":
            await self._hold()
        return answer

    async def _hold(self) -> None:
        self.holding += 1
        await self._opens.wait()
        self.holding -= 1


class Process:
    """One runner, and what may happen to it."""

    def __init__(self, session: MemorySession, entity: Entity[Any, Any], name: str) -> None:
        self.session, self.line, self.gate = session, Line(session), Gate(session)
        self.drained = asyncio.Event()
        settings = session.settings
        self.runner = Runner(session, [entity], settings, id=name, drained=self.drained)

    @property
    def view(self) -> str:
        """Who is there by its view; names are single letters."""
        return "".join(member.runner for member in self.runner.membership.view.members())

    @property
    def edition(self) -> int:
        return self.runner.membership.own.edition

    @property
    def shards(self) -> int:
        return self.runner.statistics().shards

    async def dies(self) -> None:
        await self.session.close()
        await self.runner.abandon()


class Runners:
    """A broker, runners with single letters as names, a caller, and a stranger who asks them."""

    def __init__(self, entity: Entity[Any, Any], settings: Settings) -> None:
        self.entity, self.settings = entity, settings
        self.broker = MemoryBroker(VirtualClock(), settings)
        self.stranger = self.broker.session(name="stranger")
        self.cluster = Cluster(self.broker.session(name="caller"), settings)
        self.sharding = Sharding(1, settings.shards)
        self.processes: dict[str, Process] = {}

    def __getitem__(self, name: str) -> Process:
        return self.processes[name]

    def make(self, name: str, **changes: Any) -> Process:
        settings = msgspec.structs.replace(self.settings, **changes)
        made = Process(self.broker.session(name=name, settings=settings), self.entity, name)
        self.processes[name] = made
        return made

    async def start(self, names: str, **changes: Any) -> None:
        """`changes`: of the settings, for these."""
        for name in names:
            await self.make(name, **changes).runner.start()

    # -- who has what ---------------------------------------------------------------------------
    @property
    def consumers(self) -> list[ConsumerInfo]:
        return self.broker.streams("perdure").queues[self.entity.name].consumers()

    @property
    def owners(self) -> list[str]:
        """Whose the consumer of each shard is; empty where there is none."""
        found = [self.consumer(shard) for shard in range(self.sharding.shards)]
        return ["" if info is None else info.owner for info in found]

    def consumer(self, shard: int) -> ConsumerInfo | None:
        """The one of a shard."""
        for info in self.consumers:
            term = parse_term(info.name)
            assert term is not None
            if term.shard == shard:
                return info
        return None

    def shares(self, names: str) -> list[str]:
        """Who should own each shard, where these are there."""
        what = f"{self.entity.name}.{self.sharding.generation}"
        return list(assign(what, self.sharding.shards, dict.fromkeys(names, 1.0)))

    def shard(self, id: str) -> int:
        return self.sharding.shard(escape(id))

    def id_of(self, owner: str, *, among: str) -> str:
        """An entity that this runner owns, where these are there."""
        shares = self.shares(among)
        return next(f"e-{n}" for n in range(1_000) if shares[self.shard(f"e-{n}")] == owner)

    async def shared(self, names: str, within_s: float = PATIENCE_S) -> float:
        """Until these have what is theirs, by the broker and by their own account."""
        count = Counter(self.shares(names))

        def are() -> bool:
            owned = {name: self[name].runner.statistics() for name in names}
            return self.owners == self.shares(names) and all(
                (s.shards, s.terms) == (count[n], count[n]) for n, s in owned.items()
            )

        return await until(are, within_s)

    def release(self, id: str, asker: str = "stranger") -> Release:
        """The word that asks for an entity's shard."""
        return Release(self.entity.name, self.sharding.generation, self.shard(id), runner=asker)

    # -- what is done ---------------------------------------------------------------------------
    async def ask(self, id: str, n: int = 1) -> int:
        return await self.cluster.at(Keeper, id).ask(Add(n))

    async def tell(self, id: str, n: int = 1) -> None:
        data = msgspec.json.encode(add(n))
        address = Address(self.entity.name, id)
        assert isinstance(await self.stranger.commands.publish(address, data), Appended)

    async def say(self, name: str, word: Word, within_s: float = 1.0) -> Word | None:
        """What a runner answers to a word."""
        subject = self.stranger.subjects.member(name)
        try:
            answer = await self.stranger.asks.request(
                subject, encode_word(word), timeout_s=within_s
            )
        except Unreachable:
            return None
        return decode_word(answer.data)

    async def hearers(self, id: str, n: int = 1) -> list[dict[str, Any]]:
        """All answers to one plain ask on the subject of the entity's shard."""
        subject = self.stranger.subjects.ask_shard(
            self.entity.name, self.sharding.generation, self.shard(id), escape(id)
        )
        return await self._answers(subject, n)

    async def bare(self, id: str, n: int = 1) -> list[dict[str, Any]]:
        """All answers to one plain ask on the entity's own subject."""
        return await self._answers(self.stranger.subjects.ask(self.entity.name, escape(id)), n)

    async def _answers(self, subject: str, n: int) -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        box = self.stranger.asks.inbox(lambda m: heard.append(msgspec.json.decode(m.data)))
        self.stranger.asks.send(subject, msgspec.json.encode(add(n)), reply=box.subject("1"))
        await asyncio.sleep(0.05)
        box.close()
        return heard

    async def quiet(self) -> None:
        """Until no tell waits any more."""
        await until(lambda: not self.broker.waiting(self.entity.name))

    async def recorded(self, id: str) -> list[str]:
        """The names of all recorded outcomes."""
        address = Address(self.entity.name, id)
        last = await self.stranger.log.last(address)
        if last is None:
            return []
        read = self.stranger.log.read(address, after=0, upto=last.sequence)
        commits = [unseal(stored) async for stored in read]
        return [o.name for commit in commits if commit is not None for o in commit.outcomes]

    async def took_effect_once(self, id: str, commands: int) -> None:
        """So many commands that add one have a record each, and no other is there."""
        await self.quiet()
        names = await self.recorded(id)
        assert len(names) == len(set(names)) == commands
        assert await self.ask(id, 0) == commands


@asynccontextmanager
async def runners(
    names: str = "", *, entity: Entity[Any, Any] = keeper, **settings: Any
) -> AsyncGenerator[Runners]:
    """Runners that have what is theirs."""
    given: dict[str, Any] = {"shards": SHARDS, **settings}
    made = Runners(entity, Settings(**given))
    await made.start(names)
    if names:
        await made.shared(names)
    try:
        yield made
    finally:
        for process in made.processes.values():
            process.gate.open()
            await process.runner.drain()
            await process.session.close()
        await made.cluster.close()
        await made.stranger.close()


def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(work)
