"""OpenFlow: a flow that has begun and not ended, as its entity's log has it."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Raw

from ..entities.canonical import canonical
from ..entities.record import (
    Answered,
    Asked,
    Began,
    Dropped,
    Fired,
    Opened,
    Record,
    Resolved,
    Waits,
)
from ..entities.story import PARKED
from ..streams.asks import NULL
from ..streams.commit import FlowPart, Outcome

FLOW_BYTES = 512
"""What a flow takes in memory beside its command and its records."""
RECORD_BYTES = 200
"""What a record takes beside its value. Generous."""

STUCK = "the flow is parked"
"""What the cause of an error begins with where a flow can't go on by itself."""

KEPT = f"{STUCK}, and keeps another value"
"""And what it begins with where that value may count, or be dropped when the flow goes on."""


P = TypeVar("P", Opened, Asked)


class OpenFlow(msgspec.Struct, array_like=True, eq=False):
    """One flow. It changes by commits only."""

    name: str
    payload_hash: str
    command: Raw
    birth: int | None
    since_ms: int
    records: list[Record] = []
    parked: str | None = None
    asker: str | None = None
    chain: tuple[str, ...] = ()
    was_parked: bool = False
    trace: str | None = None  # of the command that began it
    changed_ms: int = 0
    """When it changed last, by its log; 0 where a snapshot was written without that."""

    def add(self, part: FlowPart, now_ms: int) -> None:
        """What happened in it, and when."""
        self.changed_ms = now_ms
        self.records += part.records
        self.parked = part.parked
        self.was_parked |= part.parked is not None
        self.asker = self.asker or part.asker
        self.chain = self.chain or part.chain

    @property
    def waits(self) -> Waits | None:
        """What it waits for; None while it runs: whatever woke it has to drive it on."""
        for record in reversed(self.records):
            match record:
                case Waits():
                    return record
                case Began():
                    return None
                case _:
                    pass
        return None

    @property
    def runs(self) -> bool:
        """Whether its turn isn't over, or it came to wait for what had happened meanwhile."""
        return self.parked is None and (self.waits is None or self._late)

    @property
    def _late(self) -> bool:
        """Whether something happened within the turn that ended last: while it was parked."""
        ended = False
        for record in reversed(self.records):
            match record:
                case Waits():
                    ended = True
                case Began():
                    return False
                case Resolved() | Fired() | Answered() if ended:
                    return True
                case _:
                    pass
        return False

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The names of that, for people."""
        return () if self.waits is None else self.waits.on

    def opened(self, name: str) -> Opened | None:
        """A deferred, if it is open."""
        return self._pending(Opened, Resolved, name)

    def keeps_another(self, name: str, nonce: str, value: Raw) -> bool:
        """Whether it is parked with another value for that deferred, which may yet be dropped: no
        turn has come to its end with it."""
        if self.parked is None:
            return False
        ours, kept = False, None
        for record in self.records:
            match record:
                case Opened() if record.name == name:
                    ours = record.nonce == nonce
                case Resolved() if record.name == name:
                    kept = record.value
                case Dropped() if record.name == name:
                    kept = None
                case Waits() if record.on != PARKED:
                    kept = None
                case _:
                    pass
        return ours and kept is not None and not _same(kept, value)

    def asked(self, name: str) -> Asked | None:
        """What another entity is asked, if it hasn't answered."""
        return self._pending(Asked, Answered, name)

    def _pending(self, kind: type[P], over: type[Resolved | Answered], name: str) -> P | None:
        """The record of that kind and name, unless there is one that ends it."""
        found: P | None = None
        ended = False
        for record in self.records:
            if isinstance(record, kind) and record.name == name:
                found = record
            elif isinstance(record, over) and record.name == name:
                ended = True
            elif isinstance(record, Dropped) and record.name == name and over is Resolved:
                ended = False
        return None if ended else found

    @property
    def memory_bytes(self) -> int:
        """What it takes in memory, about."""
        return FLOW_BYTES + len(self.command) + sum(map(_bytes, self.records))


def begun(outcome: Outcome, now_ms: int) -> OpenFlow:
    """The flow that an outcome begins."""
    command = outcome.command if isinstance(outcome.command, Raw) else NULL
    return OpenFlow(
        *(outcome.name, outcome.payload_hash, command, outcome.birth, now_ms),
        trace=outcome.trace,
    )


def _same(one: Raw, other: Raw) -> bool:
    """Whether two are the same JSON, however it is spelled."""
    if bytes(one) == bytes(other):
        return True
    try:
        return canonical(msgspec.json.decode(one)) == canonical(msgspec.json.decode(other))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


def _bytes(record: Record) -> int:
    match record:
        case Began(_, Raw() as state):
            return RECORD_BYTES + len(state)
        case Resolved() | Asked():
            value = record.value if isinstance(record, Resolved) else record.command
            return RECORD_BYTES + len(value)
        case _:
            return RECORD_BYTES


def names_of(flow: OpenFlow) -> tuple[str, ...]:
    """What a flow waits for, by the names that its code gives."""
    given = (what.partition(" ")[2] for what in flow.waits_for)
    return tuple(name for name in given if name and not name.startswith("within "))
