"""A cluster under test: servers, several runners, clients in processes of their own.

It starts, kills, freezes, drains and adds runners, tells who owns which shard, and at the end
collects what the clients saw and what the log says. Who owns a shard is read from the consumers of
the command stream, whose metadata name their owner: a runner isn't asked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from perdure import Settings, connect
from perdure.streams.subjects import Subjects, shard_of

from .client import Spec, looked
from .journal import Journal, Look
from .linear import Call, check
from .oracle import Message, judge, read
from .processes import Clients, Runner
from .servers import ApiError, Servers, until

TYPE = "journal"
NAMESPACE = "chaos"
SUBJECTS = Subjects(NAMESPACE)
OWNER = "perdure-owner"
CALM_S = 0.3
"""A call may wait so long while all is well; on a busy machine one does now and then."""
QUIET = 5
"""So many looks in a row, 50 ms apart, must find it calm."""
SETTLE_S = 45.0
"""How long everything may take to be well again, at the very most."""
SPREAD_S = 3.0
"""How long runners may take to share the shards among them, if they do."""
FINAL_S = 20.0


@dataclass(frozen=True)
class Hosts:
    """What the runners of a test are: the module that they run, and the type that it hosts."""

    module: str = "tests.chaos.member"
    entity: str = TYPE


class Cluster:
    """All processes of one test."""

    def __init__(
        self,
        folder: Path,
        servers: Servers,
        seed: int,
        settings: dict[str, Any],
        spread_s: float,
        hosts: Hosts,
    ) -> None:
        self.servers = servers
        self.random = random.Random(seed)
        self.runners: list[Runner] = []
        self.clients: list[Clients] = []
        self.shards: int = settings["shards"]
        self.shared = False  # whether the runners shared the shards whenever that was waited for
        self._seed, self._folder, self._settings = seed, folder, settings
        self._spread_s, self._hosts = spread_s, hosts
        self._started = 0
        self._spread_known = False
        self._stack = AsyncExitStack()

    # -- runners ------------------------------------------------------------------------------
    async def add(self) -> Runner:
        """One more runner; returns when it hosts."""
        self._started += 1
        name = f"runner-{self._started}"
        runner = Runner(name, self._folder, self._settings, self._hosts.module)
        await self._stack.enter_async_context(runner)
        self.runners.append(runner)
        await runner.start()
        return runner

    @property
    def alive(self) -> list[Runner]:
        """Those that run or are frozen."""
        return [runner for runner in self.runners if runner.alive]

    @property
    def awake(self) -> list[Runner]:
        """Those that can work."""
        return [runner for runner in self.alive if not runner.frozen and runner.id]

    def shard(self, entity: str) -> int:
        """The shard of an id."""
        return shard_of(entity, self.shards)

    async def owners(self) -> dict[int, str]:
        """The owner of each shard, by the newest term's consumer. Raises ApiError."""
        stream = SUBJECTS.command_stream(self._hosts.entity)
        found: dict[int, tuple[int, str]] = {}
        for consumer in (await self.servers.api(f"CONSUMER.LIST.{stream}"))["consumers"]:
            _, shard, term, _ = consumer["name"].split("-")
            number, owner = int(term[1:]), consumer["config"].get("metadata", {}).get(OWNER, "")
            found[int(shard[1:])] = max((number, owner), found.get(int(shard[1:]), (0, "")))
        return {shard: owner for shard, (_, owner) in found.items()}

    async def owned(self, runner: Runner) -> frozenset[int]:
        """The shards of one runner."""
        owners = await self.owners()
        return frozenset(shard for shard, owner in owners.items() if owner == runner.id)

    async def replaced(self, runner: Runner) -> None:
        """Wait until others have what it had, and have caught up."""
        await self.taken_over(runner)
        await self.calm()

    async def taken_over(self, runner: Runner) -> None:
        """Wait until others have what it had."""

        async def elsewhere() -> bool:
            try:
                return not await self.owned(runner)
            except ApiError:
                return False

        await until(elsewhere, SETTLE_S, f"others in the place of {runner}")

    async def victim(self) -> Runner:
        """A runner that owns something, by chance."""
        owners = set((await self.owners()).values())
        working = [runner for runner in self.awake if runner.id in owners]
        return self.random.choice(working or self.awake)

    async def spread(self) -> None:
        """Wait until each runner owns something; not again if they didn't once."""
        if self._spread_known and not self.shared:
            return

        async def each() -> bool:
            try:
                owners = await self.owners()
            except ApiError:
                return False
            live = {runner.id for runner in self.awake}
            return set(owners.values()) == live and len(owners) == self.shards

        try:
            await until(each, self._spread_s, "a share for each runner")
            self.shared = self.shared or not self._spread_known
        except TimeoutError:
            self.shared = False
        self._spread_known = True

    # -- clients ------------------------------------------------------------------------------
    async def load(self, processes: int = 2, **changes: Any) -> None:
        """Clients begin to call; `changes` to their `Spec`."""
        for n in range(processes):
            spec = Spec(f"clients-{n}", self.servers.url, NAMESPACE, self._seed, n, processes)
            clients = Clients(self._folder, replace(spec, **changes))
            await self._stack.enter_async_context(clients)
            self.clients.append(clients)
        await asyncio.gather(*(clients.start() for clients in self.clients))

    @property
    def done(self) -> int:
        """Calls that had their outcome."""
        return sum(clients.progress.done for clients in self.clients)

    async def progress(self, calls: int) -> None:
        """Wait for so many calls more."""
        target = self.done + calls
        await self._while(lambda: self.done < target)

    async def calm(self) -> None:
        """Wait until no call waits long any more, for a while."""
        quiet = 0

        def restless() -> bool:
            nonlocal quiet
            oldest = max(clients.progress.oldest_s for clients in self.clients)
            quiet = quiet + 1 if oldest < CALM_S else 0
            return quiet < QUIET

        await self._while(restless)

    async def _while(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SETTLE_S):
            while condition():
                for clients in self.clients:
                    assert clients.alive, f"{clients.name} ended: {clients.log.read_text()}"
                await asyncio.sleep(0.05)

    # -- the end ------------------------------------------------------------------------------
    async def finish(self) -> History:
        """The clients stop, every accepted tell is settled, every entity is read once more."""
        calls = [call for seen in await self._stop() for call in seen]
        await until(self.drained, SETTLE_S, "an empty command stream")
        ids = sorted({call.entity for call in calls})
        calls += await self._last_look(ids)
        messages = await read(self.servers.alive[0], NAMESPACE, TYPE)
        return History(calls, messages, self.shard)

    async def _stop(self) -> list[list[Call]]:
        return await asyncio.gather(*(clients.stop() for clients in self.clients))

    async def drained(self) -> bool:
        """Whether each accepted tell is settled: the command stream is empty."""
        stream = SUBJECTS.command_stream(self._hosts.entity)
        try:
            info = await self.servers.api(f"STREAM.INFO.{stream}")
        except ApiError:
            return False
        return int(info["state"]["messages"]) == 0

    async def _last_look(self, ids: list[str]) -> list[Call]:
        settings = Settings(url=self.servers.url, namespace=NAMESPACE, ask_timeout=FINAL_S)
        async with connect(settings=settings) as cluster:
            return [await looked(cluster.at(Journal, id), Look()) for id in ids]


class History:
    """What a run left behind."""

    def __init__(
        self, calls: list[Call], messages: list[Message], shard: Callable[[str], int]
    ) -> None:
        self.calls, self.messages, self.shard = calls, messages, shard

    def violations(self, *, without: int | None = None) -> list[str]:
        """Everything that is wrong, by the log alone and by what the clients saw.

        `without` one commit, only what the clients miss: a log that never had it would be sound.
        """
        verdict = judge([m for n, m in enumerate(self.messages) if n != without])
        logs = {id: entry.recorded for id, entry in verdict.entities.items()}
        found = check(self.calls, logs)
        return verdict.wrong + found if without is None else found


@asynccontextmanager
async def cluster(
    folder: Path,
    servers: Servers,
    *,
    seed: int,
    runners: int = 3,
    spread_s: float = SPREAD_S,
    hosts: Hosts = Hosts(),
    **settings: Any,
) -> AsyncGenerator[Cluster]:
    """A cluster whose processes end with it."""
    given: dict[str, Any] = {"url": servers.url, "namespace": NAMESPACE, "shards": 12}
    given |= {"snapshot_min_commits": 20, "command_stream_bytes": 2**26, **settings}
    made = Cluster(folder, servers, seed, given, spread_s, hosts)
    async with made._stack:  # pyright: ignore[reportPrivateUsage]
        await made.add()  # the first one makes the streams
        await asyncio.gather(*(made.add() for _ in range(runners - 1)))
        await made.spread()
        yield made
