"""What the flow loads share: callers of desks that don't give up, and looks at runners."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from nats.aio.client import Client

import perdure
from perdure import ClusterError, Settings, connect

from .cluster import NAMESPACE, SUBJECTS, Cluster, Hosts
from .desk import Approve, Desk, handed_out
from .flowlog import FlowEntry, flows
from .oracle import read
from .processes import Runner
from .servers import until

DESKS = Hosts("tests.chaos.desk_member", "desk")
AT_ONCE = 64
"""Calls that are on their way at the same time."""
PATIENCE_S = 90.0
"""How long a call is tried again, in all."""
PAUSE_S = 0.1
"""Between two tries of a call that met a cluster error."""
DRAINED_S = 60.0
HANDED_S = 90.0
"""How long a part of all flows may take until they wait."""

T = TypeVar("T")


@asynccontextmanager
async def callers(url: str, count: int) -> AsyncGenerator[list[perdure.Cluster]]:
    """That many clients, each with a connection of its own."""
    settings = Settings(url=url, namespace=NAMESPACE, ask_timeout=20.0)
    async with AsyncExitStack() as stack:
        made = [connect(settings=settings) for _ in range(count)]
        yield [await stack.enter_async_context(one) for one in made]


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """The same call again until it has its outcome, as a client does that wants to know."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await call()
            except ClusterError as error:
                if error.advice == "fix":
                    raise
                await asyncio.sleep(PAUSE_S)


async def all_of(work: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Do all of it, AT_ONCE at a time."""
    todo = iter(list(work))

    async def worker() -> None:
        for one in todo:
            await one()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


async def suspend(
    clients: Sequence[perdure.Cluster], folder: Path, commands: Sequence[tuple[str, Approve]]
) -> None:
    """Begin flows, each under its name as the key; return once all have handed out a token."""
    turn = itertools.cycle(clients)

    async def begin(id: str, command: Approve) -> None:
        ref = next(turn).at(Desk, id)
        await persist(partial(ref.tell, command, key=command.name))

    await all_of(partial(begin, id, command) for id, command in commands)
    names = {command.name for _, command in commands}

    async def handed() -> bool:
        return names <= handed_out(folder).keys()

    await until(handed, HANDED_S, "tokens")


async def ended(runners: Cluster, count: int, within_s: float) -> None:
    """Wait until the log says that so many flows have ended. Nobody is asked."""

    async def have() -> bool:
        messages = await read(runners.servers.url, NAMESPACE, DESKS.entity)
        return sum(bool(flow.outcomes) for flow in flows(messages).values()) >= count

    await until(have, within_s, f"the end of {count} flows")


async def settled(runners: Cluster) -> dict[str, FlowEntry]:
    """All flows in the log, once no tell waits any more."""
    await until(runners.drained, DRAINED_S, "an empty command stream")
    return flows(await read(runners.servers.url, NAMESPACE, DESKS.entity))


async def end_of_everything(runners: Cluster) -> None:
    """kill -9 of each runner and of the server, all at once; then as many begin again."""
    alive = runners.alive
    for runner in alive:
        await runner.kill()
    [server] = runners.servers.all
    await server.kill()
    await server.start()
    await until(runners.servers.usable, DRAINED_S, "JetStream")
    for _ in alive:
        await runners.add()


def memory_mb(runner: Runner) -> float:
    """What a runner's process has in memory now, in MB of 10^6 bytes."""
    status = Path(f"/proc/{runner.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None, f"{runner} isn't there"
    return int(found[1]) * 1024 / 1e6


class Cache(msgspec.Struct, frozen=True):
    """What a runner tells of its memory (the rest of its answer is left out)."""

    cached: int
    cached_capacity: int
    evicted: int


async def cache_of_the_runner(url: str) -> Cache:
    """Of the only one there is."""
    client = Client()
    await client.connect(url)
    try:
        answer = await client.request(SUBJECTS.stats, b"", timeout=5)
    finally:
        await client.close()
    return msgspec.json.decode(answer.data, type=Cache)
