"""`nats micro`: what a runner answers on `$SRV`, as ADR-32 has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure.deploy.cli.hosting import hosting
from perdure.deploy.permissions import needs
from perdure.deploy.server import EmbeddedServer
from perdure.deploy.service import Service
from perdure.durable.connect import connect
from perdure.durable.runner import Runner
from perdure.entities.settings import Settings
from perdure.streams.connect import open_session
from perdure.streams.subjects import Subjects

from ...support.server import settings_for
from .commands import plain_client
from .counter import Add, Counter, Take, TooFew, counter
from .test_permissions import matches


async def test_a_runner_is_found_and_tells_what_it_did(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    settings = settings_for(nats_server, namespace)
    client = await plain_client(nats_server.url)

    async def asked(subject: str) -> dict[str, Any]:
        return dict(json.loads((await client.request(subject, b"", timeout=5)).data))

    async with hosting([counter], settings, ends=False) as cluster:
        a = cluster.at(Counter, "a")
        await a.ask(Add(1))
        with pytest.raises(TooFew):
            await a.ask(Take(5))
        found = await asked(f"$SRV.PING.{namespace}")
        assert found["type"] == "io.nats.micro.v1.ping_response"
        assert (found["name"], found["id"]) == (namespace, cluster.runner_id)
        info = await asked(f"$SRV.INFO.{namespace}.{cluster.runner_id}")
        (endpoint,) = info["endpoints"]
        assert endpoint["name"] == "counter"
        assert endpoint["subject"] == f"{namespace}.ask.counter.*"
        assert endpoint["metadata"]["shards"] == "4 of 4"
        stats = await asked(f"$SRV.STATS.{namespace}")
        (did,) = stats["endpoints"]
        assert (did["num_requests"], did["num_errors"]) == (2, 0)
        assert 0 < did["average_processing_time"] * 2 <= did["processing_time"] + 1
        forbidden = await client.subscribe("elsewhere.x")
        await client.publish("$SRV.PING", b"", reply="elsewhere.x")
        await asked(f"$SRV.PING.{namespace}")
        assert forbidden.pending_msgs == 0
    await client.close()


async def test_in_memory_nobody_listens() -> None:
    """Where runs are simulated nothing is added to them."""
    async with connect("memory:service", serving=[counter]):
        session = await open_session(Settings(url="memory:service"), name="asker")
        assert (await session.asks.request("$SRV.PING", b"", timeout_s=1)).no_responders
        await session.close()


async def test_a_runner_may_listen_there() -> None:
    settings = Settings(url="memory:", namespace="bank")
    session = await open_session(settings, name="test")
    service = Service(Runner(session, [counter], settings), settings)
    allowed = [n.subject for n in needs("runner", Subjects("bank"), "counter")]
    for subject in service.subjects():
        assert any(matches(pattern, subject) for pattern in allowed), subject
    await session.close()
