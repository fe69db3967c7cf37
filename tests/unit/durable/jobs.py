"""A singleton on several runners, and a record of who runs it when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from string import ascii_letters
from typing import Any

from perdure import Singleton
from perdure.durable.assignment import assign

from .peers import now, until
from .runners import Runners, runners

JOB = "job"

SOON_S = 1.0
"""Who takes over does so within this, where nobody is frozen."""


async def for_ever(_: Singleton) -> None:
    await asyncio.Event().wait()


@dataclass
class Turn:
    """One call of the coroutine."""

    runner: str
    handle: Singleton
    began: float = field(default_factory=now)
    ended: float | None = None
    beside: int = 0  # turns that went on when it began


class Job:
    """What `job` does on which runner, and all its turns in order."""

    def __init__(self, r: Runners) -> None:
        self._r = r
        self.turns: list[Turn] = []

    @property
    def alive(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.ended is None]

    @property
    def terms(self) -> list[int]:
        return [turn.handle.term for turn in self.turns]

    @property
    def never_two(self) -> bool:
        return all(turn.beside == 0 for turn in self.turns)

    async def declare(
        self, names: str, work: Callable[[Singleton], Awaitable[None]] = for_ever
    ) -> None:
        for name in names:
            await self._r[name].runner.singletons.declare(JOB, partial(self._turn, name, work))

    async def _turn(
        self, runner: str, work: Callable[[Singleton], Awaitable[None]], handle: Singleton
    ) -> None:
        turn = Turn(runner, handle, beside=len(self.alive))
        self.turns.append(turn)
        try:
            await work(handle)
        finally:
            turn.ended = now()

    async def begins_again(self, within_s: float = 60.0) -> float:
        """Until one more turn has begun."""
        turns = len(self.turns)
        return await until(lambda: len(self.turns) > turns, within_s)

    def owner(self, names: str) -> str:
        """Whose it is, if these declare it."""
        return assign(f"singleton.{JOB}", 1, dict.fromkeys(names, 1.0))[0]

    async def runs_on(self, runner: str, within_s: float = 60.0) -> float:
        """Until it runs there, and nowhere else."""
        return await until(lambda: [t.runner for t in self.alive] == [runner], within_s)

    def name_before(self, there: str, names: str = ascii_letters) -> str:
        """One who gets it from those who are there when it joins."""
        return next(n for n in names if n not in there and self.owner(there + n) == n)

    def name_behind(self, there: str, names: str = ascii_letters) -> str:
        """One who doesn't."""
        return next(n for n in names if n not in there and self.owner(there + n) != n)


@asynccontextmanager
async def job(names: str, **settings: Any) -> AsyncGenerator[tuple[Runners, Job]]:
    """Runners, none of which declares it yet."""
    async with runners(names, **settings) as r:
        yield r, Job(r)
