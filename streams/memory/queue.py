"""The command stream of one entity type: a work queue with a bounded mailbox for each entity.

Held to the server's configuration: retention work queue, discard new, a limit for each subject
and one of bytes for the whole; an acknowledged message is removed and frees its place. One
consumer a shard, since overlapping filters are refused on a work queue.

A token with a DEL byte is no part of any subject to the server's index: such a tell is stored and
acknowledged, but no consumer is given it and no limit of a subject counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..commands import parse_term
from ..port import (
    Appended,
    ConsumerInfo,
    Delivery,
    Full,
    Outdated,
    PublishAnswer,
    Refused,
    Taken,
)
from ..subjects import Sharding
from .consumer import Attached, Place, QueueConsumer

FULL_CODE = 10077
"""The server's code when any limit of a stream is reached; only the text tells which."""


UNINDEXED = "\x7f"
"""What the server's index of subjects takes for no part of one."""


def headers_size(headers: Mapping[str, str] | None) -> int:
    """The bytes of headers on the wire."""
    if not headers:
        return 0
    return 14 + sum(len(k.encode()) + len(v.encode()) + 4 for k, v in headers.items())


@dataclass(frozen=True, slots=True)
class Limits:
    """What a command stream is configured with."""

    per_entity: int
    """Messages that may wait for one entity."""
    bytes: int
    """Size of the stream."""


@dataclass(frozen=True, slots=True)
class _Tell:
    sequence: int
    time_ns: int
    token: str
    place: Place
    data: bytes
    headers: Mapping[str, str] | None
    size: int


class Queue:
    """All tells of a type that nobody acknowledged yet."""

    def __init__(self, sharding: Sharding, limits: Limits, now_ns: Callable[[], int]) -> None:
        self.sharding: Sharding = sharding
        self.limits = limits
        self.halted_by: str | None = None  # who cuts it anew: it takes no tells meanwhile
        self.last_sequence: int = 0
        self._now_ns = now_ns
        self._bytes = 0
        self._tells: dict[int, _Tell] = {}
        self._waiting: dict[str, int] = {}
        self._consumers: dict[str, QueueConsumer] = {}

    def __len__(self) -> int:
        return len(self._tells)

    def __repr__(self) -> str:
        return f"<Queue {self.sharding} tells={len(self)} consumers={len(self._consumers)}>"

    # -- publishing -------------------------------------------------------------------------------
    def publish(
        self, token: str, data: bytes, headers: Mapping[str, str] | None, subject_size: int
    ) -> PublishAnswer:
        """Store a tell, or refuse it; `subject_size` is the length of its stored subject."""
        indexed = UNINDEXED not in token
        if indexed and self._waiting.get(token, 0) >= self.limits.per_entity:
            return Full()
        size = 30 + subject_size + len(data) + (headers_size(headers) + 4 if headers else 0)
        if self._bytes + size > self.limits.bytes:
            return Refused(FULL_CODE, "maximum bytes exceeded")
        self.last_sequence += 1
        tell = _Tell(
            self.last_sequence,
            self._now_ns(),
            token,
            self._place(self.sharding.shard(token)),
            data,
            dict(headers) if headers else None,
            size,
        )
        self._tells[tell.sequence] = tell
        self._bytes += size
        if not indexed:
            return Appended(tell.sequence)
        self._waiting[token] = self._waiting.get(token, 0) + 1
        consumer = self._consumer_of(tell.place)
        if consumer is not None:
            consumer.stored(tell.sequence)
        return Appended(tell.sequence)

    def by_sequence(self, sequence: int) -> Delivery | None:
        """A waiting tell, as no consumer's delivery."""
        tell = self._tells.get(sequence)
        return None if tell is None else _delivery(tell, "", 0, "")

    def oldest(self, after: int) -> Delivery | None:
        """The first tell beyond a sequence, as no consumer's delivery."""
        found = next((tell for sequence, tell in self._tells.items() if sequence > after), None)
        return None if found is None else _delivery(found, "", 0, "")

    def delete_tell(self, sequence: int) -> None:
        """Remove a tell, if it is there, whoever holds it."""
        if sequence in self._tells:
            for consumer in self._consumers.values():
                consumer.forget(sequence)
            self._remove(sequence)

    # -- resizing ---------------------------------------------------------------------------------
    def halt(self, token: str) -> None:
        """Take no tells until it is cut; `token` says by whom."""
        self.halted_by = token

    def recut(self, sharding: Sharding) -> None:
        """Cut it anew and take tells again; what it holds stays where it is."""
        self.sharding, self.halted_by = sharding, None

    # -- consumers --------------------------------------------------------------------------------
    def create(
        self, shard: int, name: str, *, owner: str, ack_wait_s: float, attached: Attached
    ) -> None:
        """A new consumer. Raises Taken if its name is in use or its shard has one.

        Raises Outdated for a term's name of another generation.
        """
        term, place = parse_term(name), self._place(shard)
        if term is not None and term.generation != self.sharding.generation:
            raise Outdated(f"{name}: it is of generation {self.sharding.generation} now")
        other = self._consumers.get(name) or self._consumer_of(place)
        if other is not None:
            raise Taken(
                f"shard {shard} has the consumer {other.name} of {other.owner or 'nobody'}"
            )
        self._consumers[name] = QueueConsumer(
            name,
            place,
            owner,
            ack_wait_s=ack_wait_s,
            waiting=self._at(place),
            attached=attached,
            emit=self._emit,
            last=lambda: self.last_sequence,
        )

    def delete(self, name: str) -> None:
        """Delete a consumer, if it is there; whoever pulls on it is told."""
        consumer = self._consumers.pop(name, None)
        if consumer is not None:
            attached = consumer.attached
            consumer.end()
            if attached is not None:
                attached.connection.post(attached.lost, "deleted")

    def grant(self, name: str, attached: Attached, credit: int) -> None:
        """More deliveries for whoever is attached to a consumer."""
        consumer = self._consumers.get(name)
        if consumer is not None and consumer.attached is attached:
            consumer.grant(credit)

    def detach(self, name: str, attached: Attached) -> None:
        """Whoever is attached pulls no more."""
        consumer = self._consumers.get(name)
        if consumer is not None and consumer.attached is attached:
            consumer.detach()

    def info(self, name: str) -> ConsumerInfo | None:
        """One consumer."""
        consumer = self._consumers.get(name)
        return None if consumer is None else _info(consumer)

    def consumers(self) -> list[ConsumerInfo]:
        """All consumers, by name."""
        return [_info(self._consumers[name]) for name in sorted(self._consumers)]

    # -- acknowledgements -------------------------------------------------------------------------
    def ack(self, handle: str) -> None:
        """Remove a message, if the consumer of the handle exists and holds it."""
        consumer, sequence = self._open(handle)
        if consumer is not None and consumer.settle(sequence):
            self._remove(sequence)

    def progress(self, handle: str) -> None:
        """Give the holder of a message another `ack_wait`."""
        consumer, sequence = self._open(handle)
        if consumer is not None:
            consumer.extend(sequence)

    def _open(self, handle: str) -> tuple[QueueConsumer | None, int]:
        name, _, rest = handle.partition(" ")
        sequence = rest.partition(" ")[0]
        return self._consumers.get(name), int(sequence) if sequence.isdecimal() else 0

    def _remove(self, sequence: int) -> None:
        tell = self._tells.pop(sequence)
        self._bytes -= tell.size
        if UNINDEXED in tell.token:
            return
        self._waiting[tell.token] -= 1
        if not self._waiting[tell.token]:
            del self._waiting[tell.token]

    # -- for tests --------------------------------------------------------------------------------
    def rewind(self, keep: int) -> list[Attached]:
        """Lose all beyond the sequence `keep`; who was attached is returned, detached."""
        lost = self.last_sequence - keep
        if keep < 0 or lost < 0:
            raise ValueError(f"can't keep {keep} of {self.last_sequence} sequences")
        for sequence in [s for s in self._tells if s > keep]:
            self._remove(sequence)
        self.last_sequence = keep
        parted: list[Attached] = []
        for consumer in self._consumers.values():
            consumer.rewind(keep, lost, self._at(consumer.place))
            if consumer.attached is not None:
                parted.append(consumer.attached)
                consumer.detach()
        return parted

    # -- inside -----------------------------------------------------------------------------------
    def _place(self, shard: int) -> Place:
        return self.sharding.generation, shard

    def _consumer_of(self, place: Place) -> QueueConsumer | None:
        for consumer in self._consumers.values():
            if consumer.place == place:
                return consumer
        return None

    def _at(self, place: Place) -> list[int]:
        return [
            s
            for s, tell in self._tells.items()
            if tell.place == place and UNINDEXED not in tell.token
        ]

    def _emit(self, consumer: QueueConsumer, sequence: int) -> None:
        number = consumer.consumer_sequence
        handle = f"{consumer.name} {sequence} {number}"
        delivery = _delivery(self._tells[sequence], consumer.name, number, handle)
        attached = consumer.attached
        if attached is not None:
            attached.connection.post(attached.deliver, delivery)


def _delivery(tell: _Tell, consumer: str, number: int, handle: str) -> Delivery:
    return Delivery(
        consumer, number, tell.sequence, tell.time_ns, tell.token, tell.data, tell.headers, handle
    )


def _info(consumer: QueueConsumer) -> ConsumerInfo:
    return ConsumerInfo(
        consumer.name,
        consumer.owner,
        consumer.delivered,
        consumer.pending,
        consumer.consumer_sequence,
    )
