"""The nemesis of a cluster: every few seconds it kills, freezes, drains or adds a runner.

What it does is chance, from a seed, among what is possible. At least one runner is always awake,
so that there is somebody to go on. It draws from a small deck, so that a short run sees all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from .cluster import Cluster
from .processes import Runner

MOST = 4
"""Runners at a time: more would only wait for the processors."""
DECK = ("kill", "freeze", "drain", "add", "add")


@dataclass
class Event:
    """Something that it did."""

    kind: str
    runner: str
    at: int  # CLOCK_MONOTONIC, ns


class Nemesis:
    """Works until it is told to stop, then lets everybody go on."""

    def __init__(self, cluster: Cluster, *, every_s: tuple[float, float], freeze_s: float) -> None:
        self.events: list[Event] = []
        self.deciding = 0  # runners that were frozen between a decision and its append
        self._cluster, self._every_s, self._freeze_s = cluster, every_s, freeze_s
        self._random = cluster.random
        self._deck: list[str] = []
        self._joining: list[asyncio.Task[None]] = []
        self._thawing: list[asyncio.TimerHandle] = []

    @property
    def counts(self) -> dict[str, int]:
        """How often it did what."""
        return dict(Counter(event.kind for event in self.events))

    async def run(self, stop: asyncio.Event) -> None:
        """Do something every few seconds."""
        try:
            while not stop.is_set():
                await self.once()
                try:
                    await asyncio.wait_for(stop.wait(), self._random.uniform(*self._every_s))
                except TimeoutError:
                    continue
        finally:
            for handle in self._thawing:
                handle.cancel()
            for runner in self._cluster.alive:
                runner.thaw()
        await asyncio.gather(*self._joining)
        if not self._cluster.awake:
            await self._cluster.add()

    async def once(self) -> None:
        """One thing: the next of the deck that is possible."""
        awake, alive = self._cluster.awake, self._cluster.alive
        possible = {"kill", "freeze", "drain"} if len(awake) > 1 else set[str]()
        if len(alive) < MOST:
            possible.add("add")
        if not possible.intersection(self._deck):
            more = list(DECK)
            self._random.shuffle(more)
            self._deck += more
        kind = next((kind for kind in self._deck if kind in possible), None)
        if kind is None:
            return
        self._deck.remove(kind)
        await self._do(kind, self._random.choice(awake) if kind != "add" else None)

    async def _do(self, kind: str, runner: Runner | None) -> None:
        if runner is None:
            self._joining.append(asyncio.create_task(self._add()))
            return
        self._note(kind, runner)
        if kind == "kill":
            await runner.kill()
        elif kind == "freeze":
            await self._freeze(runner)
            later = asyncio.get_running_loop().call_later
            self._thawing.append(later(self._freeze_s, self._thaw, runner))
        else:
            code = await runner.drain()
            assert code == 0, f"{runner} drained with {code}"

    async def _freeze(self, runner: Runner) -> None:
        """At any moment, or at the most delicate one."""
        if self._random.random() < 0.5:
            runner.freeze()
        else:
            self.deciding += await runner.freeze_deciding()

    async def _add(self) -> None:
        self._note("add", await self._cluster.add())

    def _thaw(self, runner: Runner) -> None:
        self._note("thaw", runner)
        runner.thaw()

    def _note(self, kind: str, runner: Runner) -> None:
        self.events.append(Event(kind, runner.name, time.monotonic_ns()))
