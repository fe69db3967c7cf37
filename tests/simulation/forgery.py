"""Snapshots that look genuine and are newer than the log: what a cache may hold after a restore.

They are written by the real code, so that their form and their hashes are right; only the commit
that they end with never was.
"""

from __future__ import annotations

from perdure.durable import snapshot
from perdure.durable.ledger import LedgerLimits
from perdure.entities.address import Address
from perdure.streams.memory.broker import Streams
from perdure.streams.subjects import escape

from .till import Till, till

LIMITS = LedgerLimits(10**9, 10**6, 10**9, 10**6)
"""A ledger that forgets nothing."""


class Shelf:
    """The snapshots of a broker, without a connection in between."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def get(self, address: Address, part: str | None = None) -> bytes | None:
        return self._streams.snapshots.get(self._subject(address, part))

    async def put(self, address: Address, data: bytes, part: str | None = None) -> bool:
        self._streams.snapshots[self._subject(address, part)] = data
        return True

    def _subject(self, address: Address, part: str | None) -> str:
        return self._streams.subjects.snapshot(address.entity, escape(address.id), part)


async def forge(streams: Streams, id: str, ahead: int) -> bool:
    """Make an entity's snapshot end `ahead` sequences later, with money that nobody put there."""
    address, shelf = Address(till.name, id), Shelf(streams)
    try:
        body = await snapshot.get(shelf, address)
        if body is None:
            return False
        folded = snapshot.decode(till, address, body, LIMITS)
    except snapshot.Unusable:
        return False
    folded.state = Till(folded.state.n + 1, folded.state.total + 1_000, 1)
    folded.version += 1
    folded.sequence += ahead
    folded.commit_sequence += ahead
    folded.hash = "f" * 32
    return await snapshot.put(shelf, address, snapshot.encode(till, address, folded))
