"""Many entities in little memory: what a runner costs when most of its entities aren't in memory.

Commits are written on many entities through a runner whose cache holds a small part of them. Then
it must answer as fast as one that has few, hold no more memory than it may, and load an entity in
few times what one raw direct get takes.

    make bench-scale                                          a million commits, 100,000 entities
    make bench-scale ARGS='--commits 100000 --entities 20000 --cache 32'

Exit codes: 0 all targets met, 1 one missed or something failed, 2 wrong usage, 130 stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from perdure.deploy.process import run_until_signalled

from .cold import ACTIVATION, DIRECT_GET, activations
from .contenders import Contender, Variant, perdure, raw, started
from .measure import COMMAND_BYTES
from .options import count
from .orders import Load
from .probe import LOOK, LOOK_S, Inside, peak_bytes, rss_bytes
from .results import PERDURE, RAW, Row, Slice, p50, p99
from .scenarios import ENTITIES, Environment
from .servers import Servers, running
from .sizes import observe
from .verdict import MIB, Figure, add_files, judged, new_folder, progress_bar

WARM_RATIO = 1.5
"""How many times the p99 of a small runner a warm ask may take beside a million commits."""
MEMORY_RATIO = 1.5
"""How many times `cache_bytes` a runner may grow by: the estimate, the collector's delay, and
what is on its way."""
ACTIVATION_RATIO = 4.0
"""Loading an entity asks the leader, the snapshots, and the log's tail: three requests, and the
fold."""

LOADERS = 64
"""Clients that write."""
BLOCK = 2_000
"""Entities that are written to in turn; the progress bar moves after each pass over them."""
VISITS = 2
"""Times that an entity is loaded, written to some times, and left, while everything is written."""
COLD_BLOCK = 50
"""Entities loaded in one round."""

SERVER = Environment("default", fsync=False, replicas=1, usual={})


@dataclass(frozen=True)
class Plan:
    """What to do."""

    entities: int
    commits: int
    cache: int
    """Bytes."""
    clients: int
    seconds: float
    rounds: int
    store: Path


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the process with code 2, or 0 for --help."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--entities", type=count, default=100_000, help="default: 100000")
    add("--commits", type=count, default=1_000_000, help="in all; default: 1000000")
    add("--cache", type=count, default=128, metavar="MIB", help="cache_bytes; default: 128")
    add("--clients", type=count, default=8, help="that measure warm asks; default: 8")
    add("--seconds", type=float, default=1.0, help="of a slice of warm asks; default: 1")
    add("--rounds", type=count, default=10, help="of slices; default: 10")
    add_files(parser)
    options = parser.parse_args(arguments)
    if options.entities < ENTITIES + options.rounds:
        parser.error(f"--entities: more than {ENTITIES + options.rounds}, which are measured")
    if not 0 < options.seconds < 60:
        parser.error("--seconds: below 60")
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options make."""
    return Plan(
        options.entities,
        options.commits,
        options.cache * MIB,
        options.clients,
        options.seconds,
        options.rounds,
        options.store,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code."""
    options = parse(arguments)
    plan, errors = plan_of(options), Console(stderr=True, highlight=False)
    title = f"{plan.commits:,} commits on {plan.entities:,} entities"

    async def work(figures: list[Figure]) -> None:
        await measure(plan, figures, errors)

    return run_until_signalled(judged(work, title, options.json, errors))


async def measure(plan: Plan, figures: list[Figure], errors: Console) -> None:
    """Fill a server, then measure; the figures are added as they are known."""
    folder = new_folder(plan.store, "scale-")
    settings: dict[str, Any] = {
        "cache_bytes": plan.cache,
        "resident_entities": max(plan.entities, 1),  # `cache_bytes` alone is to bound
        "command_stream_bytes": COMMAND_BYTES,
        "appends": "single",  # else each runner tries, and the two may come to different verdicts
    }
    try:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context

            async def runner(name: str) -> tuple[Servers, Contender]:
                servers = await enter(running(SERVER, folder / name))
                variant = Variant(PERDURE, {})
                return servers, await enter(
                    started(perdure(variant, "perdure", servers, folder, settings))
                )

            servers, full = await runner("full")
            figures += await filled(full, servers, plan, errors)
            _, few = await runner("few")
            errors.print("warm asks, beside a runner with few entities")
            figures += await warm(full, few, plan)
            errors.print("cold entities, beside a raw direct get")
            sizes = await observe(full, servers)
            gets = await enter(started(raw(RAW, servers, folder, settings, sizes)))
            figures += await cold(full, gets, plan)
    finally:
        shutil.rmtree(folder)


# -- the load, and the memory that it takes ---------------------------------------------------
async def filled(full: Contender, servers: Servers, plan: Plan, errors: Console) -> list[Figure]:
    """Write everything; what it took."""
    pid = full.worker.pid
    base, began = rss_bytes(pid), time.perf_counter()
    with progress_bar(errors, plan.commits, "writing") as advance:
        for load in loads(plan.entities, plan.commits):
            await full.send(load)
            advance(load.entities)
    took_s, peak = time.perf_counter() - began, peak_bytes(pid)
    held = await full.worker.order(LOOK, Inside, LOOK_S)
    return [
        Figure("written", plan.commits / took_s, "commits/s"),
        Figure("server's memory", sum(map(rss_bytes, servers.pids)) / MIB, "MiB"),
        Figure("runner's memory before", base / MIB, "MiB"),
        Figure("runner's memory at most", peak / MIB, "MiB"),
        Figure("entities in memory", held.entities),
        Figure("what they hold, by estimate", held.cached / MIB, "MiB"),
        Figure("growth, as part of the cache", (peak - base) / plan.cache, "x", MEMORY_RATIO),
    ]


def loads(entities: int, commits: int) -> Iterator[Load]:
    """Passes over blocks of entities, `commits` in all; each entity is visited some times."""
    passes, rest = divmod(commits, entities)
    for visit in range(VISITS):
        share = passes // VISITS + (passes % VISITS > visit)
        for first in range(0, entities, BLOCK):
            block = min(BLOCK, entities - first)
            for _ in range(share):
                yield Load("ask", LOADERS, block, first=first)
    for first in range(0, rest, BLOCK):
        yield Load("ask", LOADERS, min(BLOCK, rest - first), first=first)


# -- what a command takes thereafter ----------------------------------------------------------
async def warm(full: Contender, few: Contender, plan: Plan) -> list[Figure]:
    """Asks to a working set that is in memory, in turn by both runners, so that what else the
    machine does hits both."""
    load = Load("ask", plan.clients, ENTITIES, plan.seconds)
    both = (full, few)
    slices: dict[Contender, list[Slice]] = {one: [] for one in both}
    for one in both:
        await one.warm()
    for number in range(plan.rounds):
        for one in both[:: 1 if number % 2 else -1]:
            slices[one].append(await one.slice(load))
    mine, theirs = (row(slices[one], plan.clients) for one in both)
    return [
        Figure(f"warm ask, p50 ({plan.clients} clients)", mine.median(p50), "ms"),
        Figure("the same of a runner with few entities", theirs.median(p50), "ms"),
        Figure("warm ask, p99", mine.median(p99), "ms"),
        Figure("the same of a runner with few entities", theirs.median(p99), "ms"),
        Figure("warm ask, p99 beside that", mine.ratio(theirs, p99), "x", WARM_RATIO),
        Figure("commands without an outcome", mine.errors + theirs.errors, "", 0),
    ]


async def cold(full: Contender, gets: Contender, plan: Plan) -> list[Figure]:
    """First asks to entities that are in the log alone."""
    await full.restart()
    block = min(COLD_BLOCK, (plan.entities - ENTITIES) // plan.rounds)
    load = Load("ask", 1, block, first=ENTITIES)
    found = await activations(full, gets, load, plan.rounds)
    loading, get = row(found[ACTIVATION], 1), row(found[DIRECT_GET], 1)
    return [
        Figure("activation of a cold entity, p50", loading.median(p50), "ms"),
        Figure("a raw direct get, p50", get.median(p50), "ms"),
        Figure("activation beside that", loading.ratio(get, p50), "x", ACTIVATION_RATIO),
    ]


def row(slices: list[Slice], clients: int) -> Row:
    """Slices as one row of results, whose medians and ratios are taken."""
    return Row(SERVER.name, "scale", clients, PERDURE, slices)


if __name__ == "__main__":
    sys.exit(main())
