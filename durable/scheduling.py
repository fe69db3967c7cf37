"""Scheduling: the next command of each schedule is always told, for later, under a key of its own.

Whoever ends one tells the next, and the owner of the entity's shard tells it when it comes and
now and then: it is the same tell. Where a mailbox is full, whoever couldn't tell it tries again.
What the code declares no more, or otherwise, ends at its time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec import Raw

from ..entities.address import Address
from ..entities.schedule import Schedule
from ..streams.asks import Envelope, encode_envelope, raw
from ..streams.port import Appended, Unreachable
from ..streams.subjects import escape
from .host import Host

logger: logging.Logger = logging.getLogger("perdure.schedule")

LOOK_S = 5.0
"""How often an owner looks whether a schedule of its entities isn't told, in seconds."""


class Scheduling:
    """The schedules of one type in one runner."""

    def __init__(self, host: Host, owns: Callable[[str], bool]) -> None:
        """`owns` says whether the entity with an escaped id is this runner's."""
        self._host, self._owns = host, owns
        self._told: dict[str, int] = {}  # until when, by name

    def __repr__(self) -> str:
        return f"Scheduling({self._told})"

    async def look(self) -> None:
        """Tell what isn't told."""
        for name, (schedule, due_ms) in list(self._host.untold.items()):
            if await _tell(self._host, schedule, due_ms):
                self._host.untold.pop(name, None)
        now_ms = self._host.server_ms()
        for schedule in self._host.entity.schedules:
            if not self._owns(escape(schedule.id)):
                self._told.pop(schedule.name, None)
                continue
            due_ms = schedule.next_ms(now_ms)
            if self._told.get(schedule.name) == due_ms:
                continue
            if await _tell(self._host, schedule, due_ms):
                self._told[schedule.name] = due_ms

    async def lasting(self) -> None:
        """Look now and then."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()


async def tell_next(host: Host, address: Address, key: str) -> None:
    """A command has its outcome: if it is a schedule's, tell the one that comes after it."""
    schedule, due_ms = host.entity.occurrence(key) or (None, 0)
    if schedule is None or schedule.id != address.id:
        return
    every_time = schedule.missed == "all"
    next_ms = schedule.next_ms(due_ms if every_time else max(due_ms, host.server_ms()))
    if not await _tell(host, schedule, next_ms) and every_time:
        # Its turn goes on, since what fills the mailbox may wait for it. The owner of the entity
        # would only tell the time that comes next by the clock.
        host.untold[schedule.name] = schedule, next_ms


async def _tell(host: Host, schedule: Schedule, due_ms: int) -> bool:
    """Whether it is told. Where its mailbox is full, or nobody answers, its owner tries again."""
    key, address = schedule.key(due_ms), Address(host.entity.name, schedule.id)
    envelope = Envelope(1, "tell", Raw(raw(schedule.command)), key, at=due_ms)
    try:
        answer = await host.session.commands.publish(address, encode_envelope(envelope))
    except Unreachable as error:
        logger.debug("%s isn't told: %s", key, error, extra={"action": "schedule.not_told"})
        return False
    if not isinstance(answer, Appended):
        logger.warning("%s isn't told: %s", key, answer, extra={"action": "schedule.not_told"})
        return False
    return True
