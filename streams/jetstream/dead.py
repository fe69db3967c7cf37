"""Copies of dead-letter verdicts, in one stream of all types."""

from __future__ import annotations

from ...entities.address import Address
from ..subjects import Subjects, escape
from .connection import Connection
from .storing import stored

NO_ID = "="
"""The token of whatever has no valid id; `escape` never writes it."""


class JetStreamDeadLetters:
    """`port.DeadLetters` on JetStream."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects

    async def put(self, address: Address, data: bytes) -> bool:
        """Store a copy; whether the server confirmed. `address.id` may be any text."""
        try:
            token = escape(address.id)
        except ValueError:
            token = NO_ID
        return await self._put(address.entity, token, data)

    async def put_raw(self, entity: str, token: str, data: bytes) -> bool:
        """The same for a token that is no valid id; it is stored under `=`."""
        return await self._put(entity, NO_ID, data)

    async def _put(self, entity: str, token: str, data: bytes) -> bool:
        subject = self._subjects.dead(entity, token)
        return await stored(self._connection, self._subjects.dead_stream, subject, data)
