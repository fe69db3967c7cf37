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

import msgspec
from msgspec import Struct

from ..streams.codec import Undecodable
from ..streams.commands import TermName, parse_term
from ..streams.members import Release, Released, decode_word, encode_word
from ..streams.port import Consumer, ConsumerInfo, Delivery, Session, Unreachable
from ..streams.subjects import Sharding

logger: logging.Logger = logging.getLogger("perdure.term")

NONCE_BYTES = 4
"""Of a term's name: two claimants of one number differ by it."""

RELEASE_S = 1.0
"""How long one request for a shard waits, in seconds: most are finished in thousandths; where
something takes longer, it is asked for again."""

PING_S = 0.2
"""How long a runner may take to answer a ping, in seconds."""


class Term:
    """One term of one shard: checks that deliveries are contiguous, and passes them on."""

    def __init__(
        self, name: TermName, suspects: int, on_tell: Callable[[Delivery, bool], None]
    ) -> None:
        self.name: str = str(name)
        self.number: int = name.number
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


class Record(Struct, frozen=True, array_like=True):
    """What the members bucket keeps of a shard, where its consumers may be gone."""

    number: int  # of the last term: they only grow
    owner: str  # the runner that began it; empty once it gave the shard back
    delivered: int  # up to this sequence of the command stream terms before it were given tells


NO_RECORD = Record(0, "", 0)
_record = msgspec.json.Decoder(Record)


async def holders(
    session: Session, entity: str, sharding: Sharding, shard: int
) -> tuple[ConsumerInfo, ...]:
    """The consumers of one shard. Raises Unreachable."""

    def of_shard(consumer: str) -> bool:
        name = parse_term(consumer)
        return name is not None and (name.generation, name.shard) == (sharding.generation, shard)

    return tuple(await session.commands.consumers(entity, of_shard))


async def is_gone(session: Session, runner: str) -> bool:
    """Whether a runner's process is certainly gone: the server knows of nobody who listens."""
    try:
        answer = await session.asks.request(session.subjects.member(runner), b"", timeout_s=PING_S)
    except Unreachable:
        return False
    return answer.no_responders


async def released(session: Session, owner: str, word: Release) -> bool:
    """Ask a runner to give a shard back; whether it has, or its process is gone."""
    subject = session.subjects.member(owner)
    try:
        answer = await session.asks.request(subject, encode_word(word), timeout_s=RELEASE_S)
        return answer.no_responders or isinstance(decode_word(answer.data), Released)
    except (Unreachable, Undecodable):
        return False


async def take(
    session: Session,
    entity: str,
    sharding: Sharding,
    shard: int,
    *,
    runner: str,
    suspects: int,
    on_tell: Callable[[Delivery, bool], None],
) -> Term:
    """Start the next term of a shard, without credit. Raises Taken, Unreachable.

    What a runner that is gone had been given is suspect; so is, up to `suspects`, what this runner
    took over earlier and may not have run yet.
    """
    infos = await holders(session, entity, sharding, shard)
    record = await _read(session, entity, sharding, shard)
    for owner in sorted({record.owner, *(info.owner for info in infos)} - {runner, ""}):
        if await is_gone(session, owner):
            suspects = max(suspects, _given(owner, infos, record))
    names = [parse_term(info.name) for info in infos]
    number = 1 + max(record.number, *(n.number for n in names if n is not None), 0)
    # Before any consumer goes: else a runner that ends in between would leave no trace of it.
    delivered = max(record.delivered, *(info.delivered for info in infos), 0)
    await _write(session, entity, sharding, shard, Record(number, runner, delivered))
    for info in infos:
        await session.commands.delete(entity, info.name)
    name = TermName(sharding.generation, shard, number, session.entropy.token(NONCE_BYTES))
    term = Term(name, suspects, on_tell)
    term.consumer = await session.commands.create(
        entity, shard, term.name, owner=runner, on_delivery=term.deliver, on_lost=term.end
    )
    logger.debug("term %s begins", term.name, extra={"action": "term.begin", "entity": entity})
    return term


async def give_back(
    session: Session, entity: str, sharding: Sharding, shard: int, term: Term
) -> None:
    """End a term on purpose: its runner leaves alive, so nothing becomes suspect.

    Raises Unreachable.
    """
    await session.commands.delete(entity, term.name)
    record = await _read(session, entity, sharding, shard)
    if record.number == term.number:
        delivered = max(record.delivered, term.delivered)
        await _write(session, entity, sharding, shard, Record(term.number, "", delivered))


def _given(owner: str, infos: tuple[ConsumerInfo, ...], record: Record) -> int:
    """Up to which sequence a runner had been given tells."""
    given = [info.delivered for info in infos if info.owner == owner]
    return max([*given, record.delivered if record.owner == owner else 0], default=0)


def _key(entity: str, sharding: Sharding, shard: int) -> str:
    return f"term.{entity}.{sharding.generation}.{shard}"


async def _read(session: Session, entity: str, sharding: Sharding, shard: int) -> Record:
    entry = await session.members.get(_key(entity, sharding, shard))
    return NO_RECORD if entry is None else _record.decode(entry.value)


async def _write(
    session: Session, entity: str, sharding: Sharding, shard: int, record: Record
) -> None:
    key = _key(entity, sharding, shard)
    await session.members.put(key, msgspec.json.encode(record))
