"""A stand-in for a runner: it listens where an owner listens, and answers as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from perdure import ClusterError, Failure, Settings
from perdure.entities.tagged import to_wire
from perdure.streams.asks import (
    Answer,
    Envelope,
    TypeInfo,
    encode_answer,
    encode_info,
    open_body,
    raw,
)
from perdure.streams.client import Cluster
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Message, Subscription
from perdure.streams.subjects import Sharding
from tests.unit.streams.virtual import VirtualClock

SHARDING = Sharding(3, 4)


@dataclass(frozen=True)
class Asked:
    """One ask as it came in."""

    at: float  # loop time, seconds
    envelope: Envelope
    subject: str
    reply: str


Script = Callable[[int, Asked], bytes | None]
"""What to answer to the nth ask, counted from 1; None: nothing."""


def reply(value: object, seq: int | None = None) -> bytes:
    return encode_answer(Answer(reply=raw(value), seq=seq))


def failure(value: Failure, seq: int | None = None) -> bytes:
    return encode_answer(Answer(failure=raw(to_wire(value)), seq=seq))


def error(value: ClusterError, seq: int | None = None) -> bytes:
    return encode_answer(Answer(error=raw(to_wire(value)), seq=seq))


def script(*answers: bytes | None) -> Script:
    """One answer after another; the last one again and again."""
    return lambda n, asked: answers[min(n, len(answers)) - 1]


@dataclass
class Owner:
    """Owns every shard of the type `account`."""

    session: MemorySession
    sharding: Sharding = SHARDING
    says: Script = field(default_factory=lambda: script(None))
    asked: list[Asked] = field(default_factory=list[Asked])
    infos: int = 0
    info_entity: str = "account"
    _listening: list[Subscription] = field(default_factory=list[Subscription])

    async def start(self) -> None:
        await self.start_info()
        await self.start_asks()

    async def start_info(self) -> None:
        subject = self.session.subjects.info("account")
        self._listening.append(await self.session.asks.subscribe(subject, self._on_info))

    async def start_asks(self) -> None:
        head = f"perdure.ask.account.{self.sharding.generation}"
        self._listening.append(await self.session.asks.subscribe(f"{head}.*.*", self._on_ask))

    async def stop(self) -> None:
        for subscription in self._listening:
            await subscription.stop()
        self._listening.clear()

    def _on_info(self, message: Message) -> None:
        self.infos += 1
        now_ms = self.session.clock.now_ns() // 1_000_000
        cut = self.sharding
        info = TypeInfo(self.info_entity, cut.generation, cut.shards, "owner", now_ms)
        self.session.asks.send(message.reply, encode_info(info))

    def _on_ask(self, message: Message) -> None:
        envelope = open_body(message.data, message.headers, limit=1 << 20)
        now = asyncio.get_running_loop().time()
        asked = Asked(now, envelope, message.subject, message.reply)
        self.asked.append(asked)
        answer = self.says(len(self.asked), asked)
        if answer is not None:
            self.session.asks.send(message.reply, answer)

    def answer(self, number: int, data: bytes) -> None:
        """Answer the nth ask now."""
        self.session.asks.send(self.asked[number - 1].reply, data)


class World:
    """A broker, an owner and a client."""

    def __init__(
        self, settings: Settings | None = None, *, wrong_ms: int = 0, max_payload: int = 1 << 20
    ) -> None:
        self.settings = settings or Settings()
        self.broker = MemoryBroker(VirtualClock(), self.settings, max_payload=max_payload)
        self.owner = Owner(self.broker.session("owner"))
        self.session = self.broker.session("client", clock=VirtualClock(wrong_ms))
        self.cluster = Cluster(self.session, self.settings)

    @classmethod
    async def hosted(
        cls, says: Script | bytes | None = None, settings: Settings | None = None
    ) -> World:
        """With an owner that listens, and the type's streams."""
        world = cls(settings)
        world.owner.says = says if callable(says) else script(says)
        await world.session.provision("account")
        await world.owner.start()
        return world

    async def tells(self) -> list[Envelope]:
        """What waits in the command stream, oldest first."""
        found: list[Envelope] = []
        while True:
            stored = await self.session.commands.by_sequence("account", len(found) + 1)
            if stored is None:
                return found
            found.append(open_body(stored.data, stored.headers, limit=1 << 20))
