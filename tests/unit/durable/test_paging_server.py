"""Pages on a real server: stored, read back, blanked, and of no harm when they are spoiled."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest

from perdure import Settings
from perdure.deploy.server import EmbeddedServer
from perdure.durable import pages
from perdure.durable.runner import Runner
from perdure.entities.address import Address
from perdure.streams.jetstream.session import JetStreamSession
from tests.support.server import nats_session, until

from .keeper import keeper

NAMES = 60
A = Address(keeper.name, "a")


@asynccontextmanager
async def running(session: JetStreamSession) -> AsyncGenerator[Runner]:
    settings = Settings(shards=4, snapshot_min_commits=2, snapshot_max_commits=5, dedup_keys=50)
    runner = Runner(session, [keeper], settings)
    await runner.start()
    yield runner
    await until(lambda: not runner.busy, "the last snapshot")
    await runner.drain()


async def replies(session: JetStreamSession, first: int, last: int) -> list[int]:
    found: list[int] = []
    for n in range(first, last):
        subject = session.subjects.ask(keeper.name, A.id)
        body = msgspec.json.encode([1, "ask", {"type": "add", "n": 1}, f"k{n}"])
        answer = await session.asks.request(subject, body, timeout_s=10)
        found.append(msgspec.json.decode(answer.data)["reply"])
    return found


async def test_repeats_are_recognised_by_what_a_server_stores(
    nats_server: EmbeddedServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pages, "PAGE_NAMES", 4)
    monkeypatch.setattr(pages, "FILTER_PAGES", 3)
    async with nats_session(nats_server, namespace) as session:
        async with running(session):
            assert await replies(session, 0, NAMES) == list(range(1, NAMES + 1))
        assert await session.snapshots.get(A, "p0") == b""  # forgotten: only 50 are kept
        page = await session.snapshots.get(A, "p5")
        assert page
        async with running(session):
            assert await replies(session, 10, NAMES) == list(range(11, NAMES + 1))
        assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert await session.snapshots.put(A, b"spoiled", "p5")
        async with running(session):
            assert await replies(session, 10, NAMES) == list(range(11, NAMES + 1))
        assert await session.snapshots.get(A, "p5") == page
