"""The port: what the runner and the client need of a backend, and nothing else.

Two backends implement it: `streams/jetstream/` on a real server and `streams/memory/` in this
process; one conformance suite holds the second to the first. A simulation wraps a session and
loses, delays and repeats what passes here. So no code above this file may know NATS.

Three rules hold for every backend:
- What can be lost is told apart from what was refused: `NoAck` and `Unreachable` mean *unknown*.
- Callbacks are plain functions, called on the event loop one at a time; they must not block.
- What must be right is read from the leader; what may be stale says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from msgspec import Struct

from ..entities.address import Address
from ..entities.clock import Clock
from ..entities.entropy import Entropy
from .commit import Sealed, Stored
from .subjects import Sharding, Subjects


class Unreachable(Exception):
    """No connection, or no answer in time. Nothing is known about what was asked for."""


class Forbidden(Unreachable):
    """This login has no permission to ask; asking again won't help."""


class Incompatible(Exception):
    """The server or a stream isn't what perdure needs; the text says what and what to do."""


class Halted(Incompatible):
    """The type is being cut anew, or whoever began that is gone: its command stream takes nothing.

    `sharding` is how it is cut until that ends. `restoring`: out of a backup, and not yet whole.
    """

    def __init__(self, entity: str, sharding: Sharding, *, restoring: bool = False) -> None:
        why = "resized", f"`perdure shards resize {entity} {sharding.shards}` leaves it as it was"
        if restoring:
            why = "restored", f"`perdure restore {entity} FOLDER --again` begins anew"
        super().__init__(
            f"{entity} is halted: it is being {why[0]}, or that didn't end. If nobody is at it: "
            f"{why[1]}"
        )
        self.sharding = sharding


class Outdated(Exception):
    """The type was cut anew since: whoever asks knows an earlier generation."""


class Taken(Exception):
    """A shard already has a consumer: somebody else's term is running."""


# -- answers ----------------------------------------------------------------------------------
DENIED = 403
"""The code of a refusal for lack of permission."""


class Appended(Struct, frozen=True):
    """Stored, at this sequence of the stream."""

    sequence: int


class WrongLast(Struct, frozen=True):
    """Refused: the entity's last sequence isn't the expected one (10071, 10164)."""


class Full(Struct, frozen=True):
    """Refused: the entity's part of the stream is at capacity (10077, per subject)."""


class NoStream(Struct, frozen=True):
    """Nobody is there to store it: the type's stream doesn't exist, or is halted."""


class Refused(Struct, frozen=True):
    """Refused for another reason: the server's code and its text."""

    code: int
    why: str


class NoAck(Struct, frozen=True):
    """No acknowledgement: it may be stored, or arrive later, or never."""

    why: str


AppendAnswer: TypeAlias = Appended | WrongLast | Refused | NoAck
PublishAnswer: TypeAlias = Appended | Full | NoStream | Refused | NoAck


# -- the log ----------------------------------------------------------------------------------
BATCH_COMMITS = 256
"""Commits in one batch at most. The server takes 1,000; by this many nothing is gained any more,
and one refusal refuses all of them."""


class Append(Struct, frozen=True):
    """A commit and its condition: the entity's last sequence is exactly `expected` (0: none)."""

    address: Address
    commit: Sealed
    expected: int


class Log(Protocol):
    """Commits, one subject an entity, one stream a type."""

    def append(
        self, address: Address, commit: Sealed, *, expected: int
    ) -> Awaitable[AppendAnswer]:
        """Store a commit if the entity's last sequence is exactly `expected` (0: it has none). It
        may be sent at once, before the answer is awaited."""
        ...

    def append_batch(self, appends: Sequence[Append]) -> Awaitable[AppendAnswer]:
        """Store 2 to BATCH_COMMITS commits of different entities of one type: all, or none.

        Each has its own condition; `WrongLast` doesn't say whose failed. `Appended` has the
        sequence of the last one; the others come right before it, in their order.
        """
        ...

    async def last(self, address: Address) -> Stored | None:
        """The entity's last message, from the leader. Raises Unreachable."""
        ...

    async def count(self, address: Address) -> int:
        """How many messages the entity has, readable or not. Raises Unreachable.

        A server answers for a message whose checksum is wrong as if it weren't there, and takes an
        expected sequence of 0 then: only the count tells such an entity from a new one.
        """
        ...

    async def by_sequence(self, entity: str, sequence: int) -> Stored | None:
        """One message of the type's log; messages never change. Raises Unreachable."""
        ...

    def read(self, address: Address, *, after: int, upto: int) -> AsyncIterator[Stored]:
        """The entity's messages with `after` < sequence <= `upto`, in order, all. `upto` is
        a sequence of this entity that the leader has confirmed. Raises Unreachable."""
        ...

    def follow(self, address: Address, *, after: int) -> AsyncIterator[Stored]:
        """The entity's messages beyond the sequence `after`, then live ones, without a gap."""
        ...


# -- tells ------------------------------------------------------------------------------------
class Delivery(Struct, frozen=True):
    """One tell, as a consumer delivered it."""

    consumer: str
    consumer_sequence: int  # contiguous within a consumer, else a delivery was lost
    sequence: int  # in the command stream
    time_ns: int  # the server's timestamp
    token: str  # the escaped id
    data: bytes
    headers: Mapping[str, str] | None
    handle: str  # for ack and progress; opaque


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """One consumer of a command stream, as the server reports it."""

    name: str
    owner: str  # the runner in its metadata; empty for a foreign one
    delivered: int  # it was given every tell up to here; the server also counts other shards'
    pending: int  # messages that it has not been given yet
    deliveries: int  # made so far, redeliveries too: the consumer sequence of the last one


class Consumer(Protocol):
    """A durable consumer that this session created: one term of one shard."""

    name: str

    def grant(self, credit: int) -> None:
        """Allow this many more deliveries than were allowed so far."""
        ...

    def ack(self, handle: str) -> None:
        """Remove the message from the stream. May be lost; then it is delivered again."""
        ...

    def progress(self, handle: str) -> None:
        """Still at work: don't deliver it again for another `ack_wait`."""
        ...

    async def info(self) -> ConsumerInfo | None:
        """What the server says; None if the consumer is gone. Raises Unreachable."""
        ...

    async def stop(self) -> None:
        """Take nothing more. The consumer stays, so that its successor can read it."""
        ...


class Commands(Protocol):
    """The command streams: one work queue a type, one consumer a shard."""

    async def publish(
        self, address: Address, data: bytes, headers: Mapping[str, str] | None = None
    ) -> PublishAnswer:
        """Store a tell."""
        ...

    async def consumers(self, entity: str, of: Callable[[str], bool] = bool) -> list[ConsumerInfo]:
        """All consumers of the type's command stream, or `of` these names. Raises Unreachable."""
        ...

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
        """A new consumer of one shard, with no credit yet. Never takes over an existing one.
        `on_lost` is called once, with the reason, when the consumer is deleted, when the
        connection was made anew or the stream restarted: then no ack of it may be sent any more.
        Raises Taken, Unreachable (while the type is halted, too), and Outdated for a term's name
        of another generation than the type's.
        """
        ...

    async def delete(self, entity: str, name: str) -> None:
        """Delete a consumer; it may be gone already. Raises Unreachable."""
        ...

    async def by_sequence(self, entity: str, sequence: int) -> Delivery | None:
        """A stored tell again (its `handle` and `consumer` are empty). Raises Unreachable."""
        ...

    async def oldest(self, entity: str, *, after: int) -> Delivery | None:
        """The first stored tell beyond a sequence, as `by_sequence` gives it, also of a token that
        is never delivered. Raises Unreachable."""
        ...

    async def count(self, entity: str) -> int:
        """How many tells are stored, whoever holds them. Raises Unreachable."""
        ...

    async def remove(self, entity: str, sequence: int) -> None:
        """Delete a stored tell, whoever holds it; it may be gone already.

        It goes out on the present connection or not at all, as an ack does: a stream that was
        set back gives the sequence to another tell. Raises Unreachable, and Incompatible where the
        stream lets nobody delete.
        """
        ...


# -- asks -------------------------------------------------------------------------------------
class Message(Struct, frozen=True):
    """A core NATS message. `no_responders`: the server's word that nobody listens there."""

    subject: str
    data: bytes
    reply: str = ""
    headers: Mapping[str, str] | None = None
    no_responders: bool = False


class Subscription(Protocol):
    """Something that listens."""

    async def stop(self) -> None:
        """Listen no more."""
        ...


class Inbox(Protocol):
    """A place for answers: `subject("1")` can be given as a reply subject."""

    def subject(self, suffix: str) -> str:
        """A reply subject below this inbox; answers arrive with it in `Message.subject`."""
        ...

    def close(self) -> None:
        """Forget it; later answers are dropped."""
        ...


class Asks(Protocol):
    """Core NATS: requests, answers and pings. Nothing here is stored."""

    async def subscribe(self, subject: str, on_message: Callable[[Message], None]) -> Subscription:
        """Listen; on return the server knows of it."""
        ...

    def inbox(self, on_message: Callable[[Message], None]) -> Inbox:
        """A fresh inbox; cheap, one for each call."""
        ...

    def send(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish, at most once. Dropped while there is no connection."""
        ...

    def denied(self, subject: str, since: float) -> str | None:
        """Why nobody got what was sent there since then (loop time), if that is certain."""
        ...

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        """Send and wait for one answer (maybe with `no_responders`). Raises Unreachable."""
        ...


# -- caches and registers ---------------------------------------------------------------------
class Snapshots(Protocol):
    """Snapshots and their parts. A cache: everything here may be stale, lost or deleted."""

    async def get(self, address: Address, part: str | None = None) -> bytes | None:
        """What is stored, or an older version of it. Raises Unreachable."""
        ...

    async def put(self, address: Address, data: bytes, part: str | None = None) -> bool:
        """Replace it; whether the server confirmed."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of the members bucket and its revision."""

    value: bytes
    revision: int


ENTRIES = 1_000
"""Values in one listing of the members bucket at most: the server gives 1,024 subjects at a time,
and refuses more. So many runners may be in one namespace."""


class Members(Protocol):
    """The members bucket: who is there, attempt marks, term numbers. Keys are plain tokens."""

    async def get(self, key: str) -> Entry | None:
        """From the leader. Raises Unreachable."""
        ...

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expected: int | None = None,
        ttl_s: int | None = None,
    ) -> int | None:
        """The new revision, or None if `expected` (0: no value) isn't the last revision.

        With `ttl_s` (whole seconds, at least 1) the value goes by itself after that long, by the
        backend's clock, unless it is put again. Raises Unreachable.
        """
        ...

    async def delete(self, key: str, *, upto: int | None = None) -> None:
        """Remove a value, of revision `upto` or an older one if given. Raises Unreachable."""
        ...

    async def entries(self, head: str) -> dict[str, Entry]:
        """The values of all keys `head.TOKEN`, at most ENTRIES; what is given may be stale.

        Raises Unreachable.
        """
        ...


class DeadLetters(Protocol):
    """Copies of dead-letter verdicts."""

    async def put(self, address: Address, data: bytes) -> bool:
        """Store a copy; whether the server confirmed. `address.id` may be any text."""
        ...

    async def put_raw(self, entity: str, token: str, data: bytes) -> bool:
        """The same for a token that is no valid id; it is stored under `=`."""
        ...


# -- the registry of ids ----------------------------------------------------------------------
IDS_BYTES = 128 * 1024
"""Of the registry in one read: some 6,000 ids of 20 characters. It bounds what a server sends in
one go while others publish, and what a reader holds."""


class Ids(Protocol):
    """The registry of ids, one stream a type: who has a log, written before the log is.

    Messages of a page are parts of it, until one that is the whole page takes their place.
    """

    async def add(self, entity: str, page: str, data: bytes, *, whole: bool) -> PublishAnswer:
        """Store a message of a page; a whole one replaces all of that page in the same step."""
        ...

    async def last(self, entity: str) -> int:
        """The newest message's sequence, from the leader; 0 if there is none. Raises Unreachable.

        Also 0 if the type has no registry.
        """
        ...

    async def read(self, entity: str, *, after: int, upto: int) -> list[Stored]:
        """The first messages with `after` < sequence <= `upto`, in order.

        As many as IDS_BYTES hold, one at least; empty: there are no more. Raises Unreachable.
        """
        ...

    async def logged(self, entity: str, *, skip: int) -> list[str]:
        """Escaped ids that have a log, sorted, after the first `skip`; empty: no more.

        It asks the log itself, which holds up its writers for half a second each 100,000 ids:
        for repairs only. Raises Unreachable.
        """
        ...


# -- timers -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Firing:
    """A timer whose time has come. `handle` acknowledges it."""

    handle: str
    entity: str
    token: str  # the escaped id
    data: bytes


class Relay(Protocol):
    """One of those who are given firings; each goes to one of them."""

    def grant(self, credit: int) -> None:
        """Allow this many more."""
        ...

    def ack(self, handle: str) -> None:
        """It was passed on. May be lost; then it comes again."""
        ...

    async def stop(self) -> None:
        """Take nothing more; what isn't acknowledged goes to the others, in its time."""
        ...


@dataclass(frozen=True)
class Pending:
    """A timer whose time hasn't come."""

    place: int
    token: str  # the escaped id of the entity that set it, or should be
    data: bytes


class Schedules(Protocol):
    """Timers: what is armed is given once, at its time or later, to somebody who relays.

    As long as nobody acknowledges it, it is given again.
    """

    async def provision(self) -> None:
        """Create what it takes unless it is there, once a type was provisioned. Raises
        Incompatible, Unreachable."""
        ...

    def now_ms(self) -> int:
        """The time by the clock by which timers fire, Unix milliseconds, as far as it is known.

        Not the process's own, which may be wrong, and be put right at any moment.
        """
        ...

    async def measure(self) -> None:
        """Look at that clock again. Raises Unreachable."""
        ...

    async def arm(self, address: Address, timer: str, due_ms: int, data: bytes) -> bool:
        """Set a timer for a Unix time; whether the server confirmed. `timer` is a subject token,
        a new one for each: the same would be overwritten silently."""
        ...

    async def disarm(self, address: Address, timer: str) -> None:
        """Forget it, if it hasn't fired. Best effort."""
        ...

    async def pending(self, entity: str, *, after: int) -> list[Pending]:
        """Timers of a type that haven't fired, in order of their `place`, beyond that one, a page
        of them; empty: there are no more. Raises Unreachable."""
        ...

    async def relay(
        self, on_firing: Callable[[Firing], None], on_lost: Callable[[str], None]
    ) -> Relay:
        """Take part in relaying, with no credit yet. `on_lost` as that of a consumer.

        Raises Unreachable.
        """
        ...


class Session(Protocol):
    """One connection to a backend, and everything behind it."""

    clock: Clock
    entropy: Entropy
    subjects: Subjects
    log: Log
    commands: Commands
    asks: Asks
    snapshots: Snapshots
    members: Members
    dead: DeadLetters
    ids: Ids
    schedules: Schedules

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        ...

    @property
    def epoch(self) -> int:
        """Which connection this is: another number once it was lost. The server behind the next
        one may have begun anew, with older files."""
        ...

    @property
    def max_payload(self) -> int:
        """The server's limit of one message, in bytes."""
        ...

    async def sharding(self, entity: str) -> Sharding | None:
        """How the type is cut, None if it has no streams yet.

        Raises Unreachable, Incompatible, Halted.
        """
        ...

    async def provision(self, entity: str) -> Sharding:
        """Create what is missing of the type's streams, check what is there.

        Raises Incompatible, Halted, Unreachable.
        """
        ...

    async def halt(self, entity: str, token: str) -> Sharding:
        """Let the type's command stream take no tells until it is cut; how it is cut now.

        On return every tell that it took is stored: what was on its way is, or was refused.
        `token` says who halts, and takes over from who did before.
        Raises Unreachable, and Incompatible if the type has no streams.
        """
        ...

    async def recut(self, entity: str, sharding: Sharding, token: str) -> None:
        """Cut a halted type in one step, and take tells again. Its sequences go on.

        Whoever halted it must have seen that it holds no tells: no consumer of a new generation is
        given those of an earlier one. Raises Unreachable (then it may be done), and Incompatible
        if it isn't halted with this `token`.
        """
        ...

    async def clock_ahead_s(self) -> float:
        """By how many seconds `clock` is ahead of the server's, as far as is certain.

        Needs the streams of a type. Raises Unreachable.
        """
        ...

    async def close(self) -> None:
        """Send what waits, then end the connection."""
        ...
