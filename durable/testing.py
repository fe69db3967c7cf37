"""`memory()`: a whole cluster in this process, for tests, on a clock that moves only when told.

The same runner, client and encoding as on a real server: what passes here is what will happen
there. Time is virtual where it is written down (births of keys, deadlines, the times of commits);
waiting itself is real, and short, since nothing is far away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from ..entities.clock import SystemClock
from ..entities.duration import Duration, seconds
from ..entities.entity import Entity
from ..entities.settings import Settings
from ..streams.client import Cluster
from ..streams.memory.broker import MemoryBroker
from ..streams.memory.session import MemorySession
from ..streams.singleton import Declare, Run
from .runner import Runner

MS = 1_000_000
"""Nanoseconds."""

QUIET_S = 0.002
"""How often `advance` looks whether all is quiet, in seconds."""
QUIET_TURNS = 20
"""Turns of the loop in which nobody is at work: what one entity tells another, or itself, arrives
some turns later."""


class VirtualClock:
    """Unix time that starts now and moves only by `advance`."""

    def __init__(self) -> None:
        self._now_ns = SystemClock().now_ns()

    def now_ns(self) -> int:
        """Unix time in nanoseconds."""
        return self._now_ns

    def advance(self, duration: Duration) -> None:
        """Let time pass."""
        self._now_ns += int(seconds(duration) * 1e9)

    def reach(self, now_ns: int) -> None:
        """Let time pass until then; it never goes back."""
        self._now_ns = max(self._now_ns, now_ns)


class TestCluster(Cluster):
    """The whole runner in memory, on a virtual clock that moves only when told."""

    __test__ = False  # pytest: no test class

    def __init__(
        self,
        entities: tuple[Entity[Any, Any], ...],
        settings: Settings,
        clock: VirtualClock | None = None,
    ) -> None:
        self.clock: VirtualClock = clock or VirtualClock()
        self._entities, self._settings = entities, settings
        self._broker = MemoryBroker(self.clock, settings)
        self._runner: Runner | None = None
        self._hosting: MemorySession | None = None
        super().__init__(self._broker.session("caller"), settings)
        self.hosting: frozenset[str] = frozenset(entity.name for entity in entities)

    async def start(self, *entities: Entity[Any, Any]) -> None:
        """Start the runner, with other code if that is given."""
        self._entities = entities or self._entities
        self._hosting = self._broker.session("runner")
        self._runner = Runner(self._hosting, self._entities, self._settings)
        self.runner_id: str | None = self._runner.id
        await self._runner.start()
        self.declare: Declare | None = self._runner.singletons.declare

    async def advance(self, duration: Duration) -> None:
        """Move the clock, from timer to timer; return when all is quiet."""
        until_ns = self.clock.now_ns() + int(seconds(duration) * 1e9)
        await self.quiet()
        while (due_ms := self._broker.next_due_ms()) is not None and due_ms * MS <= until_ns:
            self.clock.reach(due_ms * MS)
            self._broker.fire()
            await self.quiet()
        self.clock.reach(until_ns)
        await self.quiet()

    async def quiet(self) -> None:
        """Return when no command is on its way any more."""
        turns = 0
        while turns < QUIET_TURNS:
            turns += 1
            await asyncio.sleep(0)
            if self._runner is not None and self._runner.at_work:
                turns = 0
                await asyncio.sleep(QUIET_S)

    async def stop(self) -> None:
        """Drain the runner; clients stay."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.drain()
        if self._hosting is not None:
            await self._hosting.close()

    async def crash(self) -> None:
        """Kill the runner mid-way and start another: nothing may change."""
        declared: dict[str, Run] = {}
        if self._runner is not None and self._hosting is not None:
            declared = self._runner.singletons.declared
            self._broker.disconnect(self._hosting, reconnect=False)
            await self._runner.abandon()
        await self.start()
        for name, run in declared.items():  # as the code does that starts the process
            await self.singleton(name, run)

    async def close(self) -> None:
        """Stop the runner, then the connection."""
        await self.stop()
        await super().close()


@asynccontextmanager
async def memory(
    *entities: Entity[Any, Any],
    settings: Settings | None = None,
    clock: VirtualClock | None = None,
) -> AsyncGenerator[TestCluster]:
    """A cluster of its own in memory that hosts these entities, for a test.

    `settings` default to the library's own defaults: a test depends on no environment. `clock`
    is one that the test moves too; by default it is the cluster's own, `cluster.clock`.
    """
    cluster = TestCluster(entities, settings or Settings(), clock)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.close()
