"""The leak test's caller, in a process of its own: every kind of call, in a random mix."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from perdure import (
    Cluster,
    ClusterError,
    MalformedMessage,
    Ref,
    RpcClientError,
    RunnerUnavailable,
    SendTimeout,
    connect,
)

from .child import Parent, run
from .host import settings_of
from .orders import Perdure
from .probe import Inside, look
from .purse import Count, Empty, Purse, Put, Take

FRESH = 0.5
"""The part of the queries that the leader is asked for."""
SHORT_S = 0.05
"""How long to wait for a result that never comes."""


NOT_REFUSED = ": not refused"
"""How the name ends of what should have been refused."""


class NotRefused(Exception):
    """A call went well that shouldn't."""


class Mix(msgspec.Struct, frozen=True):
    """Orders calls, drawn at random."""

    calls: int
    clients: int
    entities: int
    seed: int
    limit_s: float
    """Later it is given up as broken."""


class Report(msgspec.Struct, frozen=True):
    """What came of a mix, and what the caller holds thereafter."""

    unexpected: dict[str, int]
    """Calls that ended as they shouldn't, by kind and error; cut connections may explain some."""
    inside: Inside


class Calls:
    """The kinds of calls, each of which ends as it should or raises."""

    def __init__(self, cluster: Cluster, entities: int, draw: random.Random) -> None:
        self._cluster, self._entities, self._draw = cluster, entities, draw
        kinds: dict[Callable[[], Awaitable[object]], int] = {
            self.ask: 30,
            self.keyed: 10,
            self.repeated: 8,
            self.reused: 3,
            self.stored: 4,
            self.tell: 15,
            self.told: 5,
            self.refused: 8,
            self.query: 8,
            self.result: 4,
            self.missing: 2,
            self.state: 3,
        }
        self._kinds, self._weights = list(kinds), list(kinds.values())

    async def one(self) -> str | None:
        """A call of a random kind; how it failed, if it did."""
        (kind,) = self._draw.choices(self._kinds, self._weights)
        try:
            await kind()
        except ClusterError as error:
            return f"{kind.__name__}: {type(error).__name__}"
        except NotRefused:
            return f"{kind.__name__}{NOT_REFUSED}"
        return None

    # -- the kinds ------------------------------------------------------------------------------
    async def ask(self) -> None:
        await self._any().ask(Put(3))

    async def keyed(self) -> None:
        await self._any().ask(Put(3), key=self._key())

    async def repeated(self) -> None:
        ref, key = self._any(), self._key()
        first = await ref.ask(Put(2), key=key)
        assert await ref.ask(Put(2), key=key) == first

    async def reused(self) -> None:
        ref, key = self._any(), self._key()
        await ref.ask(Put(2), key=key)
        with suppress(MalformedMessage):
            await ref.ask(Put(1), key=key)
            raise NotRefused

    async def stored(self) -> None:
        await self._any().ask(Put(1), durable=True)

    async def tell(self) -> None:
        await self._any().tell(Put(1))

    async def told(self) -> None:
        """An ask behind a tell waits for it."""
        ref = self._any()
        await ref.tell(Put(1), key=self._key())
        await ref.ask(Put(1))

    async def refused(self) -> None:
        with suppress(Empty):
            await self._any().ask(Take(1_000_000))
            raise NotRefused

    async def query(self) -> None:
        await self._any().query(Count(), fresh=self._draw.random() < FRESH)

    async def result(self) -> None:
        ref = self._any()
        await ref.result(Put, await ref.tell(Put(1)))

    async def missing(self) -> None:
        """The outcome of a key that nobody uses; no time is left to reconnect if it is cut."""
        with suppress(SendTimeout, RunnerUnavailable, RpcClientError):
            await self._any().result(Put, self._key(), timeout=SHORT_S)

    async def state(self) -> None:
        """Now, or of a moment ago: a fold of the log."""
        version = self._draw.choice((None, 0))
        await self._any().state(version=version)

    def _any(self) -> Ref[Purse]:
        return self._cluster.at(Purse, f"p-{self._draw.randrange(self._entities)}")

    def _key(self) -> str:
        return f"k-{self._draw.getrandbits(96):x}"


async def main(parent: Parent, spec: Perdure) -> None:
    """Send what the parent orders until it leaves."""
    async with connect(settings=settings_of(spec)) as cluster:
        parent.say("ready")

        async def do(line: bytes) -> Report:
            return Report(await mixed(cluster, msgspec.json.decode(line, type=Mix)), look())

        await parent.serve(do)


async def mixed(cluster: Cluster, mix: Mix) -> dict[str, int]:
    """Run a mix; what ended as it shouldn't, by kind."""
    calls = Calls(cluster, mix.entities, random.Random(mix.seed))
    left, unexpected = iter(range(mix.calls)), Counter[str]()

    async def client() -> None:
        for _ in left:
            failed = await calls.one()
            if failed is not None:
                unexpected[failed] += 1

    async with asyncio.timeout(mix.limit_s), asyncio.TaskGroup() as group:
        for _ in range(mix.clients):
            group.create_task(client())
    return dict(unexpected)


if __name__ == "__main__":
    run(main, Perdure)
