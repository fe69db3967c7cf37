"""Atomic batches at the broker: staged message by message, stored in one step when the last comes.

Between its first message and its last a batch may be overtaken by a single append, which refuses
all of it; its sender may die or fall asleep; a new leader forgets it without a word; and only so
many may be open. Nothing of a batch is stored but all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from perdure.streams.port import AppendAnswer, Refused

from .loop import SimulatedLoop
from .weather import Weather
from .wire import Wire

TOO_MANY = 10210
"""The server's code where too many batches are open."""

IDLE_S = 10.0
"""How long a server keeps a batch whose next message doesn't come, in seconds."""

STAGED_S = (0.002, 0.4)
"""How long a slow batch is open: long enough for other messages to get between."""


class Staging:
    """The batches of one log stream that are open."""

    def __init__(self, loop: SimulatedLoop, weather: Weather, random: Random, limit: int) -> None:
        self.crowded = False  # others have as many open as the server takes
        self._loop, self._weather, self._random = loop, weather, random
        self._limit = limit
        self._open: list[asyncio.Future[bool]] = []

    async def take(
        self, wire: Wire, store: Callable[[], Coroutine[Any, Any, AppendAnswer]]
    ) -> AppendAnswer:
        """Store a batch once it is complete; without an answer if it never is."""
        if self.crowded or len(self._open) >= self._limit:
            self._weather.note("batch refused")
            return Refused(TOO_MANY, "too many open batches")
        complete: asyncio.Future[bool] = self._loop.create_future()
        self._open.append(complete)
        self._send_rest(wire, complete)
        if await complete:
            return await store()
        wire.say("BATCH FORGOTTEN")
        self._weather.note("batch forgotten")
        silence: asyncio.Future[AppendAnswer] = self._loop.create_future()
        return await silence

    def forget(self) -> None:
        """The stream has another leader, who knows nothing of what is open."""
        for complete in list(self._open):
            self._settle(complete, False)

    def _send_rest(self, wire: Wire, complete: asyncio.Future[bool]) -> None:
        """Its last message: usually right behind the others."""
        weather = self._weather
        if not weather.strikes(weather.climate.staged, "batch staged"):
            self._settle(complete, True)
            return
        open_s = self._random.uniform(*STAGED_S)
        wire.say("BATCH STAGED for", f"{open_s:.3f}")
        if self._random.random() < 0.5:
            wire.at_broker(open_s, self._settle, complete, True)
        else:  # it has not left its sender yet, who may fall asleep or die
            wire.at_process(open_s, wire.at_broker, 0.001, self._settle, complete, True)
        wire.at_broker(IDLE_S, self._settle, complete, False)

    def _settle(self, complete: asyncio.Future[bool], whole: bool) -> None:
        if complete in self._open:
            self._open.remove(complete)
            complete.set_result(whole)
