"""Turns: who decides next, so that the event loop never stays away for long.

User code runs on the event loop. Hundreds of entities with work would otherwise all decide between
two looks at the network: meanwhile no ask is refused and no ping answered, and the connection is
taken for dead. So workers wait in line; between two turns the loop looks at everything else. How
many go at once, and how many commands each decides, follows from how long that took lately.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .pace import Pace

SLICE_S = 0.005
"""How long the loop may be busy with decisions between two looks at the network, in seconds: far
below the 0.1 s within which a refusal must be on its way, since all else takes its time, too."""

AT_ONCE = 64
"""Workers between two looks at most: beyond, nothing is gained."""

SHARE = 0.1
"""How much a new measurement counts beside the ones before."""


class Turns:
    """A line of workers. Uncontended, a turn costs next to nothing."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._line: deque[Callable[[], bool]] = deque()
        self._running: bool = False
        self._free: int = 1  # who may still go before the next look at the network
        self._plan_s: float = SLICE_S  # what a decision took lately; the first are careful
        self._outcome_s: float = 0.0  # the same for one command of it

    def __repr__(self) -> str:
        return f"Turns({len(self._line)} wait, {self.at_once} at once)"

    @property
    def at_once(self) -> int:
        """How many may go between two looks at the network."""
        return max(1, min(AT_ONCE, int(SLICE_S / max(self._plan_s, 1e-6))))

    def try_take(self) -> bool:
        """Take a turn, if one is free and nobody waits for it."""
        if self._line or not self._free:
            return False
        self._free -= 1
        self._run()
        return True

    async def take(self) -> None:
        """Wait for a turn."""
        if not self.try_take():
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def go() -> bool:
                if turn.done():  # given up
                    return False
                turn.set_result(None)
                return True

            self._line.append(go)
            await turn

    def line_up(self, go: Callable[[], bool]) -> None:
        """Call it once it has a turn, in the loop's next round if it is free then.

        It says whether it used the turn.
        """
        self._line.append(go)
        self._run()

    def _run(self) -> None:
        if not self._running:
            self._running = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Once in each round of the loop: let some go on."""
        idle = self._free and not self._line  # nobody had to wait, and maybe nobody came
        free = most = self.at_once
        try:
            while self._line and free:
                free -= self._line.popleft()()
        finally:  # whatever one does, the others have their turns
            self._free = free
            self._pace.round(loop.time(), waiting=bool(self._line))
            if idle and free == most:
                self._running = False
            else:
                loop.call_soon(self._next, loop)

    def took(self, seconds: float, outcomes: int, handled: int) -> None:
        """A decision that long made so many outcomes, and was about so many commands in all."""
        self._pace.did(handled)
        self._plan_s += SHARE * (seconds - self._plan_s)
        if outcomes:
            self._outcome_s += SHARE * (seconds / outcomes - self._outcome_s)

    def outcomes(self, most: int) -> int:
        """How many commands one decision may be about, of at most so many, to end in time."""
        if self._outcome_s * most <= SLICE_S:
            return most
        return max(1, int(SLICE_S / self._outcome_s))
