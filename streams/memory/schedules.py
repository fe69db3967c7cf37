"""Schedules in memory: the port to `Timers`."""

from __future__ import annotations

from collections.abc import Callable

from ...entities.address import Address
from ..port import Firing, Pending, Unreachable
from ..subjects import escape
from .connection import Connection
from .timers import Relayer, Timers


class MemoryRelay:
    """`port.Relay` in memory."""

    def __init__(self, timers: Timers, relayer: Relayer) -> None:
        self._timers, self._relayer = timers, relayer

    def grant(self, credit: int) -> None:
        """Allow this many more."""
        self._timers.grant(self._relayer, credit)

    def ack(self, handle: str) -> None:
        """It was passed on."""
        if self._relayer.connection.up:
            self._relayer.held.pop(handle, None)

    async def stop(self) -> None:
        """Take nothing more."""
        self._timers.detach(self._relayer)


class MemorySchedules:
    """`port.Schedules` in memory."""

    def __init__(self, timers: Timers, connection: Connection) -> None:
        self._timers, self._connection = timers, connection
        self._relayers: list[Relayer] = []

    async def provision(self) -> None:
        """There is nothing to create. Raises Unreachable."""
        self._connection.demand()
        await self._connection.answer(None)

    def now_ms(self) -> int:
        """The broker's clock."""
        return self._timers.now_ms()

    async def measure(self) -> None:
        """It is known."""

    async def arm(self, address: Address, timer: str, due_ms: int, data: bytes) -> bool:
        """Set a timer; whether the broker confirmed."""
        if not self._connection.up:
            return False
        self._timers.arm(address.entity, escape(address.id), timer, due_ms, data)
        try:
            return await self._connection.answer(True)
        except Unreachable:
            return False

    async def disarm(self, address: Address, timer: str) -> None:
        """Forget it, if it hasn't fired."""
        if self._connection.up:
            self._timers.disarm(address.entity, escape(address.id), timer)
            await self._connection.turn()

    async def pending(self, entity: str, *, after: int) -> list[Pending]:
        """A page of the timers that haven't fired. Raises Unreachable."""
        self._connection.demand()
        return await self._connection.answer(self._timers.pending(entity, after))

    async def relay(
        self, on_firing: Callable[[Firing], None], on_lost: Callable[[str], None]
    ) -> MemoryRelay:
        """Take part in relaying. Raises Unreachable."""
        self._connection.demand()
        relayer = Relayer(self._connection, on_firing, on_lost)
        self._timers.attach(relayer)
        self._relayers.append(relayer)
        return await self._connection.answer(MemoryRelay(self._timers, relayer))

    def part(self, reason: str) -> None:
        """The connection is lost."""
        for relayer in self._relayers:
            self._timers.detach(relayer)
            if reason != "closed":
                self._connection.loop.call_soon(relayer.on_lost, reason)
        self._relayers.clear()
