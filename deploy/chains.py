"""Chains: a log read once, in the order of its stream, every entity's chain checked on the way.

Pure: it is fed records and yields what is wrong with them. Of each entity it remembers only how
its chain ends, about 250 bytes, so a million take about 250 MB however long their logs are.

After a fault it goes on from what the message claims, so that one fault is told once and what is
behind it is still checked. Where two commits follow the same one, the first counts for the chain.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from ..streams.commit import GENESIS, Commit, Damaged, unseal
from ..streams.jetstream.direct import Record
from ..streams.subjects import unescape
from .fault import Fault, Foreign, Kind, restore

UNKNOWN = -1
"""A version that nobody could read."""

_ENDS = struct.Struct(">16s16sqqq")
"""How an entity's chain ends, packed: a million of them are in memory at once."""


@dataclass(frozen=True, slots=True)
class End:
    """How an entity's chain ends."""

    hash: str = GENESIS
    before: str = GENESIS
    """Of the commit before the last: another one that follows it is a fork."""
    version: int = 0
    sequence: int = 0
    time_us: int = 0

    def pack(self) -> bytes:
        """As few bytes as it takes."""
        hashes = (bytes.fromhex(self.hash), bytes.fromhex(self.before))
        return _ENDS.pack(*hashes, self.version, self.sequence, self.time_us)

    @classmethod
    def unpack(cls, packed: bytes) -> End:
        """The reverse. No hash is all zeros, and none at all is."""
        hash, before, version, sequence, time_us = _ENDS.unpack(packed)
        return cls(_hex(hash), _hex(before), version, sequence, time_us)


class Chains:
    """The chains of one type's entities."""

    def __init__(self, entity: str, stream: str) -> None:
        self.messages: int = 0
        self.foreign: int = 0
        self.faults: int = 0
        self._entity, self._next = entity, restore(stream)
        self.broken: set[str] = set()
        """Escaped ids of entities with a fault."""
        self._ends: dict[str, bytes] = {}
        self._last = 0

    def __repr__(self) -> str:
        return f"Chains({self._entity}: {len(self._ends)} entities, {self.faults} faults)"

    @property
    def tokens(self) -> list[str]:
        """The escaped ids of all entities that have a commit."""
        return list(self._ends)

    @property
    def sound(self) -> list[str]:
        """Of them, those whose chain has no fault."""
        return [token for token in self._ends if token not in self.broken]

    def take(self, record: Record, *, whole: bool = True) -> Iterator[Fault | Foreign]:
        """The next record. `whole`: of the whole stream, so that each sequence must come."""
        if whole and record.sequence != self._last + 1:
            yield self._missing(self._last + 1, record.sequence - 1)
        self._last = record.sequence
        self.messages += 1
        try:
            commit = unseal(record.stored)
        except Damaged as error:
            yield self._fault("damaged", record, str(error))
            self._adopt_damaged(record)
            return
        if commit is None or not _is_id(record.token):
            self.foreign += 1
            time = datetime.fromtimestamp(record.time_ns / 1e9, UTC)
            yield Foreign(
                subject=record.subject, seq=record.sequence, time=time, bytes=len(record.data)
            )
            return
        yield from self._link(record, commit)

    def end(self, last: int) -> Iterator[Fault]:
        """The stream's end: every sequence up to its last must have come."""
        if self._last < last:
            yield self._missing(self._last + 1, last)

    # -- one commit -------------------------------------------------------------------------------
    def _link(self, record: Record, commit: Commit) -> Iterator[Fault]:
        end = self._end(record.token)
        time_us = int(commit.time.timestamp() * 1_000_000)
        beside = end.version == UNKNOWN and commit.prev == end.before  # a damaged one, not in it
        if commit.prev != end.hash and not beside:
            if end.sequence and commit.prev in (end.before, GENESIS):
                yield self._fault("fork", record, _forked(commit, end))
                return
            before = f"sequence {end.sequence}" if end.sequence else "nothing"
            what = f"the commit that it follows isn't there; before it is {before}"
            yield self._fault("hole", record, what)
        elif end.version != UNKNOWN and commit.version != end.version + _events(commit):
            what = f"version {commit.version}, expected {end.version + _events(commit)}"
            yield self._fault("version", record, what)
        elif time_us < end.time_us:
            what = f"its time, {commit.time.isoformat()}, is before that of the commit before it"
            yield self._fault("time", record, what)
        mark = record.mark or GENESIS
        self._keep(record, End(mark, end.hash, commit.version, record.sequence, time_us))

    def _adopt_damaged(self, record: Record) -> None:
        """What comes next follows the hash that is written there, or what was before it."""
        end, mark = self._end(record.token), record.mark or GENESIS
        if len(mark) == len(_hex(b"\1" * 16)) and _is_hex(mark) and mark != end.hash:
            self._keep(record, End(mark, end.hash, UNKNOWN, record.sequence, end.time_us))

    def _end(self, token: str) -> End:
        packed = self._ends.get(token)
        return End() if packed is None else End.unpack(packed)

    def _keep(self, record: Record, end: End) -> None:
        self._ends[record.token] = end.pack()

    # -- faults -----------------------------------------------------------------------------------
    def _missing(self, first: int, last: int) -> Fault:
        self.faults += 1
        several = f"sequences {first} to {last} aren't" if last > first else "it isn't"
        return Fault(
            fault="unreadable",
            address=self._entity,
            seq=first,
            what=f"{several} there, or not as it was written: the server can't read it",
            next=self._next,
        )

    def _fault(self, kind: Kind, record: Record, what: str) -> Fault:
        self.faults += 1
        self.broken.add(record.token)
        return Fault(
            fault=kind,
            address=f"{self._entity}/{shown(record.token)}",
            seq=record.sequence,
            what=what,
            next=self._next,
        )


def _events(commit: Commit) -> int:
    return sum(len(outcome.events) for outcome in commit.outcomes)


def _forked(commit: Commit, end: End) -> str:
    if commit.prev == end.before:
        return f"it follows the same commit as sequence {end.sequence} does: two histories"
    return f"it begins a history, and there is one up to sequence {end.sequence}"


def shown(token: str) -> str:
    """The id of a token, or the token where it is none."""
    try:
        return unescape(token)
    except ValueError:
        return token


def _is_id(token: str) -> bool:
    try:
        unescape(token)
    except ValueError:
        return False
    return True


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdef" for c in text)


def _hex(hash: bytes) -> str:
    return hash.hex() if any(hash) else GENESIS
