"""Stats: what a runner tells of itself to whoever asks on `perdure.stats`; for operators.

Every runner answers, so the asker collects. It is the `statistics()` of what a runner is made of,
added up by entity type: nothing here decides anything, and nothing on a command's way reads it. To
add it up takes a look at every entity in memory, so an answer is kept for a moment: asking often
costs no more than asking now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import msgspec

from ..streams.port import Session
from .activation import Activation, loop_time
from .counts import Counted, Times, TimesTold
from .host import WAITING_BYTES, Load
from .membership import Membership
from .phase import Quarantined
from .shard import Shard
from .singleton import Singletons

KEPT_S = 0.25
"""How long an answer is kept, in seconds: ten thousand entities take some 20 ms to add up."""


class TypeStats(msgspec.Struct, frozen=True, kw_only=True):
    """One entity type in one runner."""

    entity: str
    shards: int
    """Of the type, wherever they are."""
    owned: int
    """Shards that this runner has."""
    assigned: int = 0
    """Shards that it should have, by its view of the members: it gets or gives up the others."""
    own: tuple[int, ...] = ()
    """The numbers of those that it has."""
    version: str = ""
    """The fingerprint of the type's code."""
    label: str = ""
    """What the type asks of its owners; empty: nothing."""
    generation: int = 0
    """Of the type's sharding."""
    terms: int
    """Consumers of tells that run; fewer than `owned` only for moments."""
    entities: int
    """Activations: entities in memory."""
    quarantined: int
    """Of them, those whose log can't be folded."""
    asks: int
    """Commands by ask in mailboxes."""
    tells: int
    """Commands by tell in mailboxes: of those in the stream, what the terms' credit allows."""
    aside: int
    """Asks among them that wait for their caller's last tell."""
    fullest: int
    """Commands in the fullest mailbox."""
    keys: int
    """Names in ledgers for the dedup window."""
    made: int
    """Names in ledgers that clients made for their own repeats."""
    single: int
    """Commits appended alone, since the runner began."""
    batched: int
    """Commits appended in batches with those of other entities."""
    batches: int
    refused: int
    """Batches that were refused: their commits went alone then."""
    batching: bool
    """Whether commits go in batches now."""
    evicted_early: int
    """Names that ledgers in memory dropped before their time, for lack of room."""
    flows: int = 0
    """Open flows of the entities in memory; those of others wait on the server alone."""
    parked: int = 0
    """Of them, those that wait for an operator."""
    outdated: bool = False
    """The type was cut anew while this runner was cut off: it hosts it no more."""
    counts: Counted = Counted()
    """What it did since the runner began."""


class RunnerStats(msgspec.Struct, frozen=True, kw_only=True):
    """The answer on `perdure.stats`."""

    runner: str
    host: str = ""
    """The name of its machine."""
    process: int = 0
    """Its process id there."""
    since: int = 0
    """When it started, Unix milliseconds."""
    weight: float = 1.0
    """Its share of the shards, compared with the others'."""
    labels: tuple[str, ...] = ()
    machine: int | None = None
    """The machine number of its snowflakes."""
    leaving: bool = False
    """It drains."""
    sees: int = 1
    """Runners in its view, itself included: the same everywhere, but for moments."""
    time: int
    """The runner's clock, Unix milliseconds."""
    asks: int
    """That wait in the whole runner."""
    capacity: int
    """Of them: beyond, asks are refused."""
    bytes: int
    """Of their payloads."""
    bytes_capacity: int
    cached: int
    """Bytes that the entities in memory hold, about."""
    cached_capacity: int
    evicted: int
    """Entities that left memory so far to stay within the bounds; those idle for long aside."""
    types: tuple[TypeStats, ...]
    singletons: tuple[str, ...] = ()
    """The names of those that it has."""
    singleton_states: dict[str, str] = {}
    """How each of them is: `runs`, `fails`, `ends` or `ended` (durable/post.py says more)."""
    evicted_early: int = 0
    """Names that ledgers dropped before their time since the runner began, of all its types."""
    renewed_s: float | None = None
    """Seconds since its record in the members bucket was last stored, and acknowledged."""
    lateness: TimesTold = TimesTold()
    """Of the timers that it relayed, of all types: from their time until they were stored."""
    connection: dict[str, Any] = {}
    """The backend's own record of its connection, where it has one: what is in flight, what was
    dropped."""


@runtime_checkable
class _Records(Protocol):
    """A session that keeps a record of its connection."""

    def statistics(self) -> Any: ...


class Stats:
    """Adds up one runner, at most every `KEPT_S`."""

    def __init__(
        self, session: Session, load: Load, membership: Membership, singletons: Singletons
    ) -> None:
        self._session, self._load, self._membership = session, load, membership
        self._singletons = singletons
        self._lateness: Times | None = None
        self._kept: RunnerStats | None = None
        self._encoded = b""
        self._until = float("-inf")

    def __repr__(self) -> str:
        return f"Stats({self._membership.own.runner})"

    def answer(self, types: Iterable[tuple[str, Sequence[Shard]]]) -> bytes:
        """The body of an answer, about these types and their shards."""
        look = self.look(types)
        if not self._encoded:
            self._encoded = msgspec.json.encode(look)
        return self._encoded

    def look(self, types: Iterable[tuple[str, Sequence[Shard]]]) -> RunnerStats:
        """The record, at most `KEPT_S` old."""
        now = loop_time()
        if self._kept is None or now >= self._until:
            self._kept, self._encoded = self.take(types), b""
            self._until = now + KEPT_S
        return self._kept

    def relays(self, lateness: Times) -> None:
        """The runner relays timers, whose lateness is counted there."""
        self._lateness = lateness

    def take(self, types: Iterable[tuple[str, Sequence[Shard]]]) -> RunnerStats:
        """The record, as of now."""
        session, own = self._session, self._membership.own
        renewed = self._membership.stored_at
        backend = asdict(session.statistics()) if isinstance(session, _Records) else {}
        return RunnerStats(
            runner=own.runner,
            host=own.host,
            process=own.process,
            since=own.since,
            weight=own.weight,
            labels=own.labels,
            machine=own.machine,
            leaving=own.leaving,
            sees=len(self._membership.view.members()),
            time=session.clock.now_ns() // 1_000_000,
            asks=self._load.asks,
            capacity=self._load.capacity,
            bytes=self._load.bytes,
            bytes_capacity=WAITING_BYTES,
            cached=self._load.residents.bytes,
            cached_capacity=self._load.residents.most_bytes,
            evicted=self._load.residents.evicted,
            types=tuple(stats_of(name, shards) for name, shards in types),
            singletons=self._singletons.held,
            singleton_states=dict(self._singletons.states),
            evicted_early=self._load.evicted_early,
            renewed_s=None if renewed is None else max(0.0, loop_time() - renewed),
            lateness=TimesTold() if self._lateness is None else self._lateness.told(),
            connection=backend,
        )


def stats_of(entity: str, shards: Sequence[Shard]) -> TypeStats:
    """One type, added up over its shards; it has at least one."""
    held: list[Activation] = [a for shard in shards for a in shard.activations.values()]
    boxes = [activation.mailbox.statistics() for activation in held]
    ledgers = [a.folded.ledger for a in held if a.folded is not None]
    kept = [ledger.statistics() for ledger in ledgers]
    flows = [flow for a in held if a.folded is not None for flow in a.folded.flows.values()]
    group = shards[0].host.group.statistics()
    return TypeStats(
        entity=entity,
        shards=len(shards),
        owned=sum(shard.owned for shard in shards),
        assigned=sum(shard.assigned for shard in shards),
        own=tuple(shard.number for shard in shards if shard.owned),
        version=shards[0].host.entity.code,
        label=shards[0].host.entity.label or "",
        generation=shards[0].sharding.generation,
        terms=sum(shard.term is not None for shard in shards),
        entities=len(held),
        quarantined=sum(isinstance(a.phase, Quarantined) for a in held),
        asks=sum(box.asks for box in boxes),
        tells=sum(box.tells for box in boxes),
        aside=sum(box.waiting for box in boxes),
        fullest=max((box.asks + box.tells for box in boxes), default=0),
        keys=sum(ledger.given for ledger in kept),
        made=sum(ledger.made for ledger in kept),
        single=group.single,
        batched=group.batched,
        batches=group.batches,
        refused=group.refused,
        batching=group.batching,
        evicted_early=sum(ledger.evicted_early for ledger in ledgers),
        flows=len(flows),
        parked=sum(flow.parked is not None for flow in flows),
        outdated=any(shard.outdated for shard in shards),
        counts=shards[0].host.counts.told(group.sent, group.sizes),
    )


def decode_stats(data: bytes) -> RunnerStats:
    """A runner's answer. Raises what msgspec raises."""
    return msgspec.json.decode(data, type=RunnerStats)
