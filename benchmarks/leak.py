"""Whether anything grows that shouldn't: many calls of every kind, and what both processes hold.

The runner's memory is kept so small that entities are loaded and leave it all the time, and now
and then a connection is cut. Every so many calls runner and caller are looked at: resident memory,
asyncio tasks, descriptors, objects. What doesn't leak is flat: in the last third of the calls as
in the second, since in the first caches fill.

    make bench-leak                                           200,000 calls on 20,000 entities
    make bench-leak ARGS='--calls 50000 --entities 5000'

Exit codes: 0 all is flat, 1 something grows or failed, 2 wrong usage, 130 stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from rich.console import Console

from perdure.deploy.process import run_until_signalled
from perdure.deploy.server import EmbeddedServer

from .leak_caller import NOT_REFUSED, Mix, Report
from .options import count
from .orders import Perdure
from .probe import LOOK, LOOK_S, Inside, descriptors, rss_bytes
from .process import Child, child
from .relay import Relay, relayed
from .verdict import MIB, Figure, add_files, judged, new_folder, progress_bar

LOOKS = 10
"""How often both processes are looked at. Nine are three for each third."""
CLIENTS = 32
"""That call at once. So many calls at most are on their way when a connection is cut, and may end
with that error; no other may."""
CUT_S = 4.0
"""How often a connection is cut, the runner's and the caller's in turn, in seconds."""
SETTLE_S = 1.0
"""Before a look, so that what ends after a call has ended."""
CALL_S = 0.05
"""How long a call may take on average, on a busy machine; beyond, and a minute, all is broken."""

SMALL: dict[str, Any] = {
    "cache_bytes": 8 * MIB,
    "resident_entities": 500,
    "passivate_after": 5,
    "snapshot_min_commits": 5,
}
"""Settings under which entities come and go, and snapshots are written and used."""

MEMORY_SHARE, MEMORY_MIB = 0.03, 4.0
"""By how much memory may differ from third to third: what an allocator does by itself."""
TASKS, DESCRIPTORS = 16.0, 8.0
"""The same of tasks and descriptors: work that is just ending."""
OBJECTS_SHARE, OBJECTS = 0.03, 5_000.0
"""The same of objects: what is in memory is never the same."""


@dataclass
class Trend:
    """What one process held at each look."""

    name: str
    pid: int
    memory: list[float] = field(default_factory=list[float])
    """MiB."""
    descriptors: list[float] = field(default_factory=list[float])
    inside: list[Inside] = field(default_factory=list[Inside])

    def add(self, inside: Inside) -> None:
        """One more look."""
        self.memory.append(rss_bytes(self.pid) / MIB)
        self.descriptors.append(float(descriptors(self.pid)))
        self.inside.append(inside)

    def figures(self) -> list[Figure]:
        """By how much each grew, beside what it may."""
        objects = [float(one.objects) for one in self.inside]
        tasks = [float(one.tasks) for one in self.inside]
        memory_most = max(MEMORY_SHARE * thirds(self.memory)[0], MEMORY_MIB)
        objects_most = max(OBJECTS_SHARE * thirds(objects)[0], OBJECTS)
        return [
            Figure(f"{self.name}: memory", thirds(self.memory)[1], "MiB"),
            Figure("  grew by", growth(self.memory), "MiB", memory_most),
            Figure(f"{self.name}: tasks", thirds(tasks)[1]),
            Figure("  grew by", growth(tasks), "", TASKS),
            Figure(f"{self.name}: descriptors", thirds(self.descriptors)[1]),
            Figure("  grew by", growth(self.descriptors), "", DESCRIPTORS),
            Figure(f"{self.name}: objects", thirds(objects)[1]),
            Figure("  grew by", growth(objects), "", objects_most),
        ]

    def suspects(self) -> str:
        """Which types became more from the middle to the end."""
        before, after = (Counter(self.inside[at].types) for at in (len(self.inside) // 2, -1))
        after.subtract(before)
        return ", ".join(f"{name} {more:+,}" for name, more in after.most_common(6) if more > 0)


def thirds(values: Sequence[float]) -> tuple[float, float]:
    """The medians of the second and of the last third."""
    length = max(1, len(values) // 3)
    return statistics.median(values[-2 * length : -length]), statistics.median(values[-length:])


def growth(values: Sequence[float]) -> float:
    """How much more the last third has than the second."""
    second, last = thirds(values)
    return last - second


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the process with code 2, or 0 for --help."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--calls", type=count, default=200_000, help="in all; default: 200000")
    add("--entities", type=count, default=20_000, help="default: 20000")
    add("--seed", type=int, default=1, help="of the draws; default: 1")
    add_files(parser)
    options = parser.parse_args(arguments)
    if options.calls < LOOKS * CLIENTS:
        parser.error(f"--calls: from {LOOKS * CLIENTS} on")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Call, look and report; the exit code."""
    options = parse(arguments)
    errors = Console(stderr=True, highlight=False)
    title = f"{options.calls:,} calls on {options.entities:,} entities"

    async def work(figures: list[Figure]) -> None:
        await measure(options, figures, errors)

    return run_until_signalled(judged(work, title, options.json, errors))


async def measure(options: argparse.Namespace, figures: list[Figure], errors: Console) -> None:
    """Everything; the figures are added at the end."""
    folder = new_folder(options.store, "leak-")
    try:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            server = await enter(EmbeddedServer(folder, fsync=False))
            relays = [await enter(relayed(server.port)) for _ in range(2)]
            specs = [Perdure(relay.url, "leak", SMALL) for relay in relays]
            runner = await enter(child("leak_host", specs[0], folder))
            caller = await enter(child("leak_caller", specs[1], folder))
            trends = Trend("runner", runner.pid), Trend("caller", caller.pid)
            unexpected = await called(options, runner, caller, relays, trends, errors)
        figures += [one for trend in trends for one in trend.figures()]
        figures.append(Figure("entities in the runner's memory", trends[0].inside[-1].entities))
        figures += ended(unexpected, sum(relay.cuts for relay in relays))
        for name, times in unexpected.items():
            errors.print(f"{name}: {times}")
        for trend in trends:
            errors.print(f"{trend.name}: more of {trend.suspects() or 'nothing'}")
    finally:
        shutil.rmtree(folder)


def ended(unexpected: Counter[str], cuts: int) -> list[Figure]:
    """How calls ended, beside how they may."""
    allowed = sum(times for name, times in unexpected.items() if name.endswith(NOT_REFUSED))
    return [
        Figure("connections cut", cuts),
        Figure("calls that ended as they shouldn't", unexpected.total(), "", CLIENTS * cuts),
        Figure("calls that should have been refused", allowed, "", 0),
    ]


async def called(
    options: argparse.Namespace,
    runner: Child,
    caller: Child,
    relays: list[Relay],
    trends: tuple[Trend, Trend],
    errors: Console,
) -> Counter[str]:
    """Make the calls, part by part, and look after each; what ended as it shouldn't."""
    unexpected: Counter[str] = Counter()
    calls = options.calls // LOOKS
    limit_s = 60.0 + calls * CALL_S
    cuts = Cuts(relays)
    with progress_bar(errors, calls * LOOKS, "calling") as advance:
        for part in range(LOOKS):
            mix = Mix(calls, CLIENTS, options.entities, options.seed * LOOKS + part, limit_s)
            async with cuts.during():
                report = await caller.order(mix, Report, limit_s + LOOK_S)
            unexpected.update(report.unexpected)
            await asyncio.sleep(SETTLE_S)
            trends[0].add(await runner.order(LOOK, Inside, LOOK_S))
            trends[1].add(report.inside)
            advance(calls)
    return unexpected


class Cuts:
    """Cuts the connections in turn, and rests between the parts: a look is at what is settled."""

    def __init__(self, relays: Sequence[Relay]) -> None:
        self._turns = cycle(relays)
        self._left_s = CUT_S  # until the next one

    @asynccontextmanager
    async def during(self) -> AsyncGenerator[None]:
        """Inside, one of them is cut now and then; the time inside counts on from part to part."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._left_s

        async def cut() -> None:
            nonlocal due
            while True:
                await asyncio.sleep(due - loop.time())
                next(self._turns).cut()
                due = loop.time() + CUT_S

        task = loop.create_task(cut())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            self._left_s = max(0.0, due - loop.time())


if __name__ == "__main__":
    sys.exit(main())
