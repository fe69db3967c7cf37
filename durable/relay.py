"""The relay: timers whose time has come become tells of the entities that set them.

Every runner that hosts flows takes part, for all types: each firing goes to one of them, which
stores it as a tell under a key of its own, so that it takes effect once, and then acknowledges it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec
from msgspec import Raw

from ..entities.address import Address
from ..streams.asks import Envelope
from ..streams.port import Firing, Relay, Session, Unreachable
from ..streams.subjects import unescape
from .asking import deliver
from .counts import Times

logger: logging.Logger = logging.getLogger("perdure.relay")

CREDIT = 256
"""Firings that one runner holds at most: each waits for one acknowledgement."""
MEASURE_S = 60.0
"""How often the server's clock is looked at, in seconds: two clocks drift apart by some
thousandths of a second meanwhile."""
AGAIN_S = 0.25
AGAIN_MAX_S = 5.0
"""Between tries to store one, or to take part again, in seconds: at first soon, then longer."""


class _Due(msgspec.Struct):
    """What the relay reads of a timer: the rest is between the flow and itself."""

    due_ms: int | None = None


class Relaying:
    """A runner's part in relaying."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._relay: Relay | None = None
        self._lost = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.lateness: Times = Times()  # from a timer's time to when it is stored as a tell
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Relaying({len(self._tasks)} on their way)"

    @property
    def busy(self) -> bool:
        """Whether a firing is on its way."""
        return bool(self._tasks)

    async def start(self) -> None:
        """Take part. Raises Incompatible, Unreachable."""
        await self._session.schedules.provision()
        self._task = asyncio.get_running_loop().create_task(self._lasting())

    async def stop(self) -> None:
        """Take no more; what is on its way goes to the others if it isn't stored."""
        relay, self._relay = self._relay, None
        tasks = [*self._tasks, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if relay is not None:
            with contextlib.suppress(Unreachable):
                await relay.stop()

    async def _lasting(self) -> None:
        tries, schedules = 0, self._session.schedules
        while True:
            self._lost = asyncio.Event()
            try:
                self._relay = await schedules.relay(self._fires, self._is_lost)
                self._relay.grant(CREDIT)
                tries = 0
                await self._until_lost()
                await self._relay.stop()
            except Unreachable as error:
                logger.debug("no timers yet: %s", error, extra={"action": "relay.unreachable"})
            tries += 1
            await asyncio.sleep(min(AGAIN_MAX_S, AGAIN_S * tries))

    async def _until_lost(self) -> None:
        while not self._lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MEASURE_S):
                    await self._lost.wait()
            with contextlib.suppress(Unreachable):  # it goes by what it measured before
                await self._session.schedules.measure()

    def _is_lost(self, reason: str) -> None:
        self._lost.set()

    def _fires(self, firing: Firing) -> None:
        task = asyncio.get_running_loop().create_task(self._pass_on(firing, self._relay))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, firing: Firing, relay: Relay | None) -> None:
        """Store it as a tell, then acknowledge it.

        Without a key, which somebody could use up before. It takes effect once, by the records.
        """
        envelope = Envelope(1, "tell", Raw(firing.data))
        acknowledged = True
        try:
            address = Address(firing.entity, unescape(firing.token))
            due_ms = msgspec.json.decode(firing.data, type=_Due).due_ms
        except (ValueError, RecursionError) as error:
            logger.error("not a timer of ours: %s", error, extra={"action": "relay.strange"})
        else:
            acknowledged = await deliver(self._session, address, envelope)
            if acknowledged and due_ms is not None:  # else it comes again, or is of no known time
                late_ms = self._session.schedules.now_ms() - due_ms
                self.lateness.add(max(0, late_ms) / 1000)
        if relay is not None:
            if acknowledged:  # else it is given again, after a while
                relay.ack(firing.handle)
            relay.grant(1)
