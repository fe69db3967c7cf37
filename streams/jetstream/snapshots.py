"""Snapshots on JetStream: one message a subject, read from any replica."""

from __future__ import annotations

from ...entities.address import Address
from ..subjects import Subjects, escape
from .connection import Connection
from .direct import raw
from .storing import stored


class JetStreamSnapshots:
    """`port.Snapshots` on JetStream."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects

    async def get(self, address: Address, part: str | None = None) -> bytes | None:
        """What is stored, or an older version of it. Raises Unreachable."""
        stream = self._subjects.snapshot_stream(address.entity)
        found = await raw(self._connection, stream, {"last_by_subj": self._subject(address, part)})
        return None if found is None else found.data

    async def put(self, address: Address, data: bytes, part: str | None = None) -> bool:
        """Replace it; whether the server confirmed."""
        stream = self._subjects.snapshot_stream(address.entity)
        return await stored(self._connection, stream, self._subject(address, part), data)

    def _subject(self, address: Address, part: str | None) -> str:
        if part is not None and (not part or any(c in part for c in " .*>\t\r\n\0")):
            raise ValueError(f"not a part's name: {part[:80]!r}")
        return self._subjects.snapshot(address.entity, escape(address.id), part)
