"""Timers of a namespace in memory: armed, due, given to one of those who relay."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from ..port import Firing, Pending
from .connection import Connection

EARLY_S = 0.001
"""How long to wait at least before a timer is looked at, in seconds: the clock's step."""

ACK_WAIT_S = 10.0
"""After which a firing is given again, in seconds, as on JetStream."""


PAGE = 100
"""Timers in one answer."""


class Armed(NamedTuple):
    """One that waits for its time."""

    number: int  # counts up, so they lie in its order
    due_ms: int
    data: bytes


@dataclass(eq=False)
class Relayer:
    """One of those who relay."""

    connection: Connection
    on_firing: Callable[[Firing], None]
    on_lost: Callable[[str], None]
    credit: int = 0
    held: dict[str, Firing] = field(default_factory=dict[str, Firing])


class Timers:
    """All timers of a namespace."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._armed: dict[tuple[str, str, str], Armed] = {}
        self._due: deque[Firing] = deque()
        self._relayers: list[Relayer] = []
        self._number = 0

    def __repr__(self) -> str:
        return f"<Timers {len(self._armed)} armed, {len(self._due)} due>"

    def now_ms(self) -> int:
        """The broker's clock."""
        return self._now_ns() // 1_000_000

    @property
    def next_due_ms(self) -> int | None:
        """When the next one is due."""
        return min((armed.due_ms for armed in self._armed.values()), default=None)

    def arm(self, entity: str, token: str, timer: str, due_ms: int, data: bytes) -> None:
        """Set one."""
        self._number += 1
        self._armed.pop((entity, token, timer), None)
        self._armed[entity, token, timer] = Armed(self._number, due_ms, data)
        self._wake_at(entity, token, timer)

    def disarm(self, entity: str, token: str, timer: str) -> None:
        """Forget one."""
        self._armed.pop((entity, token, timer), None)

    def pending(self, entity: str, after: int) -> list[Pending]:
        """A page of a type's."""
        found = (
            Pending(armed.number, token, armed.data)
            for (of, token, _), armed in self._armed.items()
            if of == entity and armed.number > after
        )
        return list(islice(found, PAGE))

    def fire(self) -> None:
        """Give out what is due by the clock."""
        now_ms = self.now_ms()
        due = [(one.due_ms, key) for key, one in self._armed.items() if one.due_ms <= now_ms]
        for _, key in sorted(due):
            armed = self._armed.pop(key)
            self._number += 1
            self._due.append(Firing(str(self._number), key[0], key[1], armed.data))
        self._give()

    def attach(self, relayer: Relayer) -> None:
        """Somebody relays from now on."""
        self._relayers.append(relayer)

    def detach(self, relayer: Relayer) -> None:
        """Not any more: what it holds goes to the others."""
        if relayer in self._relayers:
            self._relayers.remove(relayer)
            self._due.extendleft(reversed(relayer.held.values()))
            relayer.held.clear()
            self._give()

    def grant(self, relayer: Relayer, credit: int) -> None:
        """It may be given that many more."""
        relayer.credit += credit
        self._give()

    def _give(self) -> None:
        for relayer in self._relayers:
            while self._due and relayer.credit > 0:
                firing = self._due.popleft()
                relayer.credit -= 1
                relayer.held[firing.handle] = firing
                loop = asyncio.get_running_loop()
                loop.call_later(ACK_WAIT_S, self._again, relayer, firing)
                relayer.connection.post(relayer.on_firing, firing)

    def _again(self, relayer: Relayer, firing: Firing) -> None:
        """Nobody acknowledged it: somebody is given it again."""
        if relayer.held.pop(firing.handle, None) is not None:
            self._due.append(firing)
            self._give()

    def _wake_at(self, entity: str, token: str, timer: str) -> None:
        """Look again when it is due, as often as it takes: the loop may come a moment too early,
        and the clock may have been set meanwhile."""
        due_ms = self._armed[entity, token, timer].due_ms
        after_s = max(EARLY_S, due_ms / 1000 - self._now_ns() / 1e9)
        asyncio.get_running_loop().call_later(after_s, self._wake, entity, token, timer)

    def _wake(self, entity: str, token: str, timer: str) -> None:
        self.fire()
        if (entity, token, timer) in self._armed:
            self._wake_at(entity, token, timer)
