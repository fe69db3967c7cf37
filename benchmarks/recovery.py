"""What the recovery of a cold entity asks for: `python -m benchmarks.recovery [--entities 100]`.

On a server of its own, entities get some commits, and are then recovered one after another, as the
first command to a cold entity does it, between raw direct gets of one commit. Printed, for each
kind of entity, are the requests, the medians, and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from perdure import Settings
from perdure.deploy.server import EmbeddedServer
from perdure.durable.ledger import LedgerLimits
from perdure.durable.recovery import recover
from perdure.durable.runner import Runner
from perdure.entities.address import Address
from perdure.streams.jetstream.session import JetStreamSession, open_session

from .account import account

LIMITS = LedgerLimits(10**9, 100_000, 900_000, 10_000)

SNAPSHOT_COMMITS = 20

KINDS = {
    "new": 0,
    "one commit": 1,
    "ten commits": 10,
    "a snapshot": SNAPSHOT_COMMITS,
    "a snapshot and five commits": SNAPSHOT_COMMITS + 5,
}
"""Kinds of entities, by their number of commits."""


def address_of(kind: str, number: int) -> Address:
    return Address(account.name, f"{kind.replace(' ', '-')}-{number}")


class Requests:
    """Counts what a session sends."""

    def __init__(self, session: JetStreamSession) -> None:
        self.sent = 0
        connection: Any = vars(session)["_connection"]
        for name in ("request", "send"):
            vars(connection)[name] = self._counted(getattr(connection, name))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            self.sent += 1
            return call(*args, **more)

        return counted


async def fill(session: JetStreamSession, entities: int) -> None:
    """Let a runner write all commits, in order, and leave."""
    settings = Settings(snapshot_min_commits=SNAPSHOT_COMMITS, drain_timeout=10)
    runner = Runner(session, [account], settings)
    await runner.start()

    async def one(address: Address, commits: int) -> None:
        subject = session.subjects.ask(account.name, address.id)
        for _ in range(commits):
            await session.asks.request(subject, b'{"type":"deposit","cents":1}', timeout_s=10)

    for kind, commits in KINDS.items():
        await asyncio.gather(*(one(address_of(kind, n), commits) for n in range(entities)))
    await runner.drain()


async def timed(work: Awaitable[object]) -> float:
    began = perf_counter()
    await work
    return (perf_counter() - began) * 1000


async def measure(entities: int) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        server = await stack.enter_async_context(EmbeddedServer(folder, fsync=False))
        settings = Settings(url=server.url, shards=4)
        session = await open_session(settings, name="benchmark")
        stack.push_async_callback(session.close)
        await fill(session, entities)
        requests = Requests(session)
        found: dict[str, Any] = {}
        for kind in KINDS:
            cold, raw, sent = list[float](), list[float](), 0
            for number in range(entities):
                address = address_of(kind, number)
                before = requests.sent
                cold.append(await timed(recover(session, account, address, LIMITS)))
                sent += requests.sent - before
                raw.append(await timed(session.log.by_sequence(account.name, number + 1)))
            found[kind] = {
                "requests": round(sent / entities, 2),
                "cold_p50_ms": round(median(cold), 3),
                "direct_get_p50_ms": round(median(raw), 3),
                "ratio": round(median(cold) / median(raw), 2),
            }
        return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=100)
    print(json.dumps(asyncio.run(measure(parser.parse_args().entities)), indent=1))
