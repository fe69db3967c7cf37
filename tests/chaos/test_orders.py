"""The orders example under kill -9: each order ends once, stock and payments balance to the cent.

A runner is killed every two seconds, whatever it does, and started again, while customers place,
take back and cancel orders. By default a short form; the long one is
`PERDURE_ORDERS_SECONDS=300 PERDURE_ORDERS_RATE=50 pytest -s tests/chaos/test_orders.py`.
`PERDURE_ORDERS_SEED` chooses what is ordered.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from perdure import Cluster, Settings, connect

from .processes import ROOT, START_S, Process
from .servers import Servers, running
from .shoppers import RECEIVED, Seen, Shoppers

sys.path.insert(0, str(ROOT / "examples" / "orders"))

import desk
import outside
from books import Books, contradictions, read
from order import Cancelled, Confirmed, Expired, Rejected, order

SECONDS = float(os.environ.get("PERDURE_ORDERS_SECONDS", "10"))
RATE = float(os.environ.get("PERDURE_ORDERS_RATE", "5"))
SEED = int(os.environ.get("PERDURE_ORDERS_SEED", "0")) or time.time_ns() % 1_000_000
RUNNERS = 3
KILL_EVERY_S = 2.0
LAST_S = 240.0
"""How long orders may take once nobody is killed any more. A question whose answer was lost with
a process is asked again after half a minute, later if it was lost again."""
LIMIT_S = SECONDS + LAST_S + 120
NAMESPACE = "chaos"
ENDS = (Confirmed, Rejected, Expired, Cancelled)


class Keeper(Process):
    """One runner of the shop."""

    def __init__(self, name: str, folder: Path, url: str) -> None:
        super().__init__(name, folder)
        self._settings: dict[str, object] = {
            "url": url, "namespace": NAMESPACE, "shards": 8, "command_stream_bytes": 2**26,
        }  # fmt: skip

    async def start(self) -> None:
        """Start it and wait until it hosts."""
        await self.spawn(["-m", "tests.chaos.shopkeeper"], self._settings)
        await self.line(START_S)


async def nemesis(keepers: list[Keeper], kills: Counter[str]) -> None:
    """Kill one of those that host, every two seconds, and start it again; until cancelled, then
    until all host. On a slow machine there may be none for a while."""
    chance, loop = random.Random(SEED), asyncio.get_running_loop()
    due, starting = loop.time(), dict[Keeper, asyncio.Task[None]]()
    try:
        while True:
            due = max(due + KILL_EVERY_S, loop.time())
            await asyncio.sleep(due - loop.time())
            hosts = [k for k in keepers if k not in starting or starting[k].done()]
            if hosts:
                keeper = chance.choice(hosts)
                await keeper.kill()
                kills[keeper.name] += 1
                starting[keeper] = loop.create_task(keeper.start())
    finally:
        await asyncio.gather(*starting.values())


async def shopping(shoppers: Shoppers, keepers: list[Keeper], kills: Counter[str]) -> float:
    """Orders at their rate under kills; then until the last has its outcome. How long that took
    after the last kill, in seconds."""
    loop, chance = asyncio.get_running_loop(), random.Random(SEED + 1)
    async with asyncio.TaskGroup() as group:
        killing = group.create_task(nemesis(keepers, kills))
        approving = group.create_task(shoppers.approver())
        customers: list[asyncio.Task[None]] = []
        due = end = loop.time()
        end += SECONDS
        while (due := due + chance.expovariate(RATE)) < end:
            await asyncio.sleep(max(0.0, due - loop.time()))
            customers.append(group.create_task(shoppers.customer(f"o-{len(customers)}")))
        await asyncio.sleep(max(0.0, end - loop.time()))
        killing.cancel()
        await asyncio.wait((killing,))
        quiet = loop.time()
        shoppers.until = time.monotonic() + LAST_S
        await asyncio.wait(customers)
        approving.cancel()
    return loop.time() - quiet


async def endings(cluster: Cluster, ids: list[str]) -> dict[str, list[str]]:
    """Of each order, the ends that its log has, in order."""
    found: dict[str, list[str]] = {}
    for id in ids:
        commits = [commit async for commit in cluster.history(order, id)]
        events = [event for commit in commits for event in commit.events]
        found[id] = [type(event).__name__ for event in events if isinstance(event, ENDS)]
    return found


async def dead(servers: Servers) -> int:
    """How many dead letters there are: there is no reason for any."""
    info = await servers.api(f"STREAM.INFO.{NAMESPACE.upper()}_DEAD")
    return int(info["state"]["messages"])


def told(seen: Seen, books: Books, kills: Counter[str], quiet_s: float) -> dict[str, Any]:
    """What there is to say about it."""
    took = sorted(seen.took.values())
    return {
        "seed": SEED,
        "seconds": SECONDS,
        "orders": len(seen.placed),
        "kills": kills.total(),
        "outcomes": dict(Counter(seen.outcomes.values())),
        "ends": dict(Counter(order.status for order in books.orders.values())),
        "income": books.income,
        "median_s": round(took[len(took) // 2], 3),
        "p99_s": round(took[len(took) * 99 // 100], 1),
        "over_20_s": sum(s > 20 for s in took),
        "longest_s": round(took[-1], 1),
        "after_the_last_kill_s": round(quiet_s, 1),
        "errors": dict(seen.errors),
    }


@pytest.mark.timeout(LIMIT_S)
async def test_orders_end_once_and_the_books_balance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {SEED}")
    monkeypatch.setenv(outside.FILE, str(tmp_path / "outside.db"))
    kills = Counter[str]()
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(running(tmp_path / "nats", 1, fsync=True))
        keepers = [Keeper(f"keeper-{n}", tmp_path, servers.url) for n in range(RUNNERS)]
        for keeper in keepers:
            await stack.enter_async_context(keeper)
        await asyncio.gather(*(keeper.start() for keeper in keepers))
        settings = Settings(url=servers.url, namespace=NAMESPACE)
        cluster = await stack.enter_async_context(connect(settings=settings))
        shoppers = Shoppers(cluster, SEED)
        await shoppers.receive()
        quiet_s = await shopping(shoppers, keepers, kills)
        seen, books = shoppers.seen, await read(cluster)
        ends = await endings(cluster, seen.placed)
        dead_letters = await dead(servers)
    print(json.dumps(told(seen, books, kills, quiet_s)))
    assert kills.total() >= max(2, SECONDS / 20)
    assert set(books.orders) == set(seen.placed) == set(seen.outcomes)
    assert contradictions(books, RECEIVED) == []
    assert desk.requests() == {}
    for id, end in ends.items():
        assert end in ([end[0]], ["Confirmed", "Cancelled"]), id
        confirmed = seen.outcomes[id] == "paid"
        assert confirmed == (end[0] == "Confirmed"), id
        cancelled = id in seen.cancelled and confirmed
        assert cancelled == (end == ["Confirmed", "Cancelled"]), id
    assert dead_letters == 0
