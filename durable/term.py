"""A term: this runner's hold on the tells of one shard, as one consumer with a name of its own.

Taking over: read what the old consumer had delivered, delete it, create the next. The server then
delivers everything un-acked again, at once and in order, and whatever the old owner still pulls
or acknowledges meets a consumer that is gone. Of two claimants the server lets one create. A term
ends with a gap in its deliveries, with the connection, or when somebody else takes the shard;
nothing is acknowledged under its name any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..streams.commands import TermName, parse_term
from ..streams.port import Consumer, ConsumerInfo, Delivery, Session, Unreachable
from ..streams.subjects import Sharding

logger: logging.Logger = logging.getLogger("perdure.term")

NONCE_BYTES = 4
"""Of a term's name: two claimants of one number differ by it."""

PING_S = 0.2
"""How long a runner may take to answer a ping, in seconds."""

NUMBER_S = 0.2
"""Between tries to read or write a term's number, in seconds."""


class Term:
    """One term of one shard: checks that deliveries are contiguous, and passes them on."""

    def __init__(
        self, name: TermName, suspects: int, on_tell: Callable[[Delivery, bool], None]
    ) -> None:
        self.name: str = str(name)
        self.generation: int = name.generation
        self.suspects = suspects  # deliveries up to this sequence may have killed a process
        self.delivered: int = 0  # the highest stream sequence that arrived
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.consumer: Consumer | None = None
        self._next = 1
        self._on_tell = on_tell

    def __repr__(self) -> str:
        state = "ended" if self.ended.done() else f"delivered up to {self.delivered}"
        return f"Term({self.name}, {state})"

    def deliver(self, delivery: Delivery) -> None:
        """The consumer's callback. After a gap the prefix is kept, the rest is not ours."""
        if self.ended.done() or delivery.consumer != self.name:
            return
        if delivery.consumer_sequence != self._next:
            self.end("gap")
            return
        self._next += 1
        self.delivered = max(self.delivered, delivery.sequence)
        self._on_tell(delivery, delivery.sequence <= self.suspects)

    def end(self, reason: str) -> None:
        """Nothing more is taken or acknowledged under this name."""
        if not self.ended.done():
            logger.debug("term %s ends: %s", self.name, reason, extra={"action": f"term.{reason}"})
            self.ended.set_result(reason)

    def ack(self, handle: str) -> None:
        """Acknowledge a delivery of this term."""
        if self.consumer is not None and not self.ended.done():
            self.consumer.ack(handle)

    def progress(self, handle: str) -> None:
        """Keep a delivery of this term from being repeated."""
        if self.consumer is not None and not self.ended.done():
            self.consumer.progress(handle)

    def grant(self, credit: int) -> None:
        """Allow that many more deliveries."""
        if self.consumer is not None and not self.ended.done():
            self.consumer.grant(credit)

    async def caught_up(self) -> bool:
        """Whether the server has nothing for this term that didn't arrive. Raises Unreachable."""
        if self.consumer is None or self.ended.done():
            return False
        info = await self.consumer.info()
        if info is None:
            return False
        # By number, not by stream sequence: the server's runs ahead over other shards' tells.
        caught_up = info.pending == 0 and info.deliveries < self._next
        if caught_up:
            self.delivered = max(self.delivered, info.delivered)
        return caught_up


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The consumers that a shard had when it was taken."""

    infos: tuple[ConsumerInfo, ...]

    @property
    def number(self) -> int:
        """The highest term number among them."""
        names = [parse_term(info.name) for info in self.infos]
        return max((n.number for n in names if n is not None), default=0)


async def holders(
    session: Session, entity: str, sharding: Sharding, shard: int
) -> tuple[ConsumerInfo, ...]:
    """The consumers of one shard. Raises Unreachable."""
    found = await session.commands.consumers(entity)
    names = [(info, parse_term(info.name)) for info in found]
    return tuple(
        info
        for info, name in names
        if name is not None and name.shard == shard and name.generation == sharding.generation
    )


async def is_gone(session: Session, runner: str) -> bool:
    """Whether a runner's process is certainly gone: the server knows of nobody who listens."""
    try:
        answer = await session.asks.request(session.subjects.member(runner), b"", timeout_s=PING_S)
    except Unreachable:
        return False
    return answer.no_responders


async def take(
    session: Session,
    entity: str,
    sharding: Sharding,
    shard: int,
    *,
    runner: str,
    on_tell: Callable[[Delivery, bool], None],
) -> Term:
    """Start the next term of a shard, without credit. Raises Taken, Unreachable."""
    old = Predecessor(await holders(session, entity, sharding, shard))
    suspects = 0
    for info in old.infos:
        if info.owner != runner and await is_gone(session, info.owner):
            suspects = max(suspects, info.delivered)
    number = 1 + max(
        old.number, 0 if old.infos else await _last_number(session, entity, sharding, shard)
    )
    for info in old.infos:
        await session.commands.delete(entity, info.name)
    await _write_number(session, entity, sharding, shard, number)
    name = TermName(sharding.generation, shard, number, session.entropy.token(NONCE_BYTES))
    term = Term(name, suspects, on_tell)
    term.consumer = await session.commands.create(
        entity, shard, term.name, owner=runner, on_delivery=term.deliver, on_lost=term.end
    )
    logger.debug("term %s begins", term.name, extra={"action": "term.begin", "entity": entity})
    return term


def _number_key(entity: str, sharding: Sharding, shard: int) -> str:
    return f"term.{entity}.{sharding.generation}.{shard}"


async def _last_number(session: Session, entity: str, sharding: Sharding, shard: int) -> int:
    entry = await session.members.get(_number_key(entity, sharding, shard))
    return 0 if entry is None else int(entry.value)


async def _write_number(
    session: Session, entity: str, sharding: Sharding, shard: int, number: int
) -> None:
    await session.members.put(_number_key(entity, sharding, shard), str(number).encode())
