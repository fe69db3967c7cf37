"""Machine numbers: a runner leases one of the 1,024 for its snowflakes, unique among the living.

A lease is a key in the members bucket that only its holder renews. It lasts several times longer
than a member's record, since a process that was frozen may make ids before it learns that it lost
its lease.
"""

from __future__ import annotations

import contextlib

from ..entities.snowflake import MACHINES
from ..streams.port import Session, Unreachable

HEAD = "machine"
"""Of the keys of leases in the members bucket."""

LONGER = 4
"""A lease lasts so many times longer than a member's record."""


class MachineLease:
    """One runner's machine number."""

    def __init__(self, session: Session, runner: str, ttl_s: int) -> None:
        self.number: int = 0
        self._session, self._runner = session, runner.encode()
        self._ttl_s = ttl_s * LONGER
        self._revision = 0

    def __repr__(self) -> str:
        return f"MachineLease({self.number})"

    async def take(self) -> int:
        """Lease a free number. Raises Unreachable, also if all are leased."""
        members = self._session.members
        used = {key.rpartition(".")[2] for key in await members.entries(HEAD)}
        start = int(self._session.entropy.uniform(0, MACHINES - 1))
        for step in range(MACHINES):
            number = (start + step) % MACHINES
            if str(number) in used:
                continue
            revision = await members.put(
                f"{HEAD}.{number}", self._runner, expected=0, ttl_s=self._ttl_s
            )
            if revision is not None:
                self.number, self._revision = number, revision
                return number
        raise Unreachable(f"all {MACHINES} machine numbers are leased")

    async def renew(self) -> bool:
        """Keep it; whether it was lost, and another one leased. Raises Unreachable."""
        members, key = self._session.members, f"{HEAD}.{self.number}"
        for _ in range(2):
            revision = await members.put(
                key, self._runner, expected=self._revision, ttl_s=self._ttl_s
            )
            if revision is not None:
                self._revision = revision
                return False
            found = await members.get(key)
            if found is not None and found.value != self._runner:
                break
            # Its own, whose acknowledgement was lost; or gone by itself, and nobody took it.
            self._revision = 0 if found is None else found.revision
        await self.take()
        return True

    async def give_back(self) -> None:
        """Let others have it."""
        with contextlib.suppress(Unreachable):
            await self._session.members.delete(f"{HEAD}.{self.number}", upto=self._revision)
