"""Timers of one process, with the weather in between."""

from __future__ import annotations

from collections.abc import Callable

from perdure.entities.address import Address
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Firing, Pending, Relay, Unreachable

from .wire import Wire


class SimulatedRelay:
    """One of those who relay; what is on its way to it may be late, and is lost with its line."""

    def __init__(
        self, wire: Wire, on_firing: Callable[[Firing], None], on_lost: Callable[[str], None]
    ) -> None:
        self.inner: Relay | None = None
        self._wire, self._on_firing = wire, on_firing
        wire.overdue.append(on_lost)

    def grant(self, credit: int) -> None:
        self._wire.at_broker(0.001, self._at_broker, "grant", credit)

    def ack(self, handle: str) -> None:
        self._wire.at_broker(0.001, self._at_broker, "ack", handle)

    async def stop(self) -> None:
        if self.inner is not None:
            await self._wire.call("stop relaying", self.inner.stop)

    def fire(self, firing: Firing) -> None:
        self._wire.say("DUE", firing.entity, firing.token, firing.data.decode())
        self._wire.at_process(self._wire.weather.delay_s(), self._on_firing, firing)

    def _at_broker(self, what: str, value: object) -> None:
        if self.inner is not None and self._wire.up:
            getattr(self.inner, what)(value)


class SimulatedSchedules:
    def __init__(self, inner: MemorySession, wire: Wire) -> None:
        self._inner, self._wire = inner.schedules, wire

    async def provision(self) -> None:
        await self._wire.call("provision timers", self._inner.provision)

    def now_ms(self) -> int:
        return self._inner.now_ms()

    async def measure(self) -> None:
        await self._wire.call("measure", self._inner.measure)

    async def arm(self, address: Address, timer: str, due_ms: int, data: bytes) -> bool:
        try:
            return await self._wire.call(
                "arm", lambda: self._inner.arm(address, timer, due_ms, data)
            )
        except Unreachable:
            return False

    async def disarm(self, address: Address, timer: str) -> None:
        try:
            await self._wire.call("disarm", lambda: self._inner.disarm(address, timer))
        except Unreachable:
            return

    async def pending(self, entity: str, *, after: int) -> list[Pending]:
        return await self._wire.call("pending", lambda: self._inner.pending(entity, after=after))

    async def relay(
        self, on_firing: Callable[[Firing], None], on_lost: Callable[[str], None]
    ) -> Relay:
        relay = SimulatedRelay(self._wire, on_firing, on_lost)

        async def at_broker() -> SimulatedRelay:
            relay.inner = await self._inner.relay(relay.fire, lambda reason: None)
            return relay

        return await self._wire.call("relay", at_broker)
