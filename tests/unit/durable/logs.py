"""A log that nobody may ask for anything: tests say what theirs answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence

from perdure.entities.address import Address
from perdure.streams.commit import Sealed, Stored
from perdure.streams.port import Append, AppendAnswer


class SilentLog:
    """`port.Log` of which each method fails its test."""

    def append(
        self, address: Address, commit: Sealed, *, expected: int
    ) -> Awaitable[AppendAnswer]:
        raise AssertionError(address)

    def append_batch(self, appends: Sequence[Append]) -> Awaitable[AppendAnswer]:
        raise AssertionError(appends)

    async def last(self, address: Address) -> Stored | None:
        raise AssertionError(address)

    async def count(self, address: Address) -> int:
        raise AssertionError(address)

    async def by_sequence(self, entity: str, sequence: int) -> Stored | None:
        raise AssertionError(sequence)

    def read(self, address: Address, *, after: int, upto: int) -> AsyncIterator[Stored]:
        raise AssertionError(after)

    def follow(self, address: Address, *, after: int) -> AsyncIterator[Stored]:
        raise AssertionError(after)
