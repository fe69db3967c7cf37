"""Three NATS servers and two runners, each in a container: what dies among them loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from perdure import Cluster, connect

from .cluster import NAMES, NatsCluster
from .crowd import Crowd
from .plain import plain
from .test_entity import LOG
from .test_entity import bank as bank

CALLERS = 8
TELLERS = 4
ENOUGH = 100
"""Answers between two deaths."""
UNHEARD = 50
"""Tells that may wait for one entity."""


@pytest.fixture
def servers(image: str) -> Iterator[NatsCluster]:
    with ExitStack() as stack:
        servers = NatsCluster(image)
        stack.callback(servers.close)
        servers.start()
        yield servers


async def leader_of(servers: NatsCluster, stream: str) -> str:
    client = await plain(servers.url.partition(",")[0])
    info = await client.jetstream().stream_info(stream)
    await client.close()
    assert info.config.num_replicas == 3
    return str(info.cluster.leader)


async def tell(cluster: Cluster, bank: Any, n: int, crowd: Crowd) -> int:
    """Tell an account, one deposit after another; how many. Now and then it waits for what came of
    them: else its mailbox would be full."""
    account, told = cluster.at(bank.Account, f"t-{n}"), 0
    while not crowd.enough:
        await account.tell(bank.Deposit(1), key=f"{n}-{told}")
        told += 1
        if told % UNHEARD == 0:
            assert await account.result(bank.Deposit, f"{n}-{told - 1}") == told
    return told


async def test_servers_and_a_runner_die_under_load(
    app: str, servers: NatsCluster, bank: Any
) -> None:
    """The leader of the log is killed, then a runner, then another server once the first is back:
    no call fails, and each deposit happened once, asked or told."""
    with servers.runner(app, "bank") as first, servers.runner(app, "bank"):
        async with connect(servers.url) as cluster:
            crowd = Crowd(cluster, bank)
            async with asyncio.TaskGroup() as group:
                for n in range(CALLERS):
                    group.create_task(crowd.call(n))
                telling = [
                    group.create_task(tell(cluster, bank, n, crowd)) for n in range(TELLERS)
                ]
                await crowd.more(ENOUGH)
                leader = await leader_of(servers, LOG)
                await asyncio.to_thread(servers.kill, leader)
                await crowd.more(ENOUGH)
                container = first.get_wrapped_container()
                await asyncio.to_thread(container.kill, signal="SIGKILL")
                await crowd.more(ENOUGH)
                await asyncio.to_thread(servers.start_again, leader)
                await asyncio.to_thread(servers.kill, next(n for n in NAMES if n != leader))
                await crowd.more(ENOUGH)
                crowd.enough = True
            await crowd.balanced()
            for n, told in enumerate(await asyncio.gather(*telling)):
                account = cluster.at(bank.Account, f"t-{n}")
                assert told
                assert await account.result(bank.Deposit, f"{n}-{told - 1}") == told
                assert (await account.state()).balance == told
