"""A place with visits in it, to be saved and restored: what is there, and what is found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import Cluster, Suspended, Suspension, Token, connect
from perdure.deploy.server import EmbeddedServer
from perdure.streams.jetstream.scan import names

from ...support.server import PATIENCE_S, nats_session, settings_for
from .commands import Ran, Shell
from .visiting import Ask, Empty, Nap, Note, Open, Visit, clerk, visit

IDS = ("v-0", "v-1", "=ü/v 2")
NAP_MS = 2_500
"""Longer than it takes to stop the runner; shorter than anybody wants to wait."""


class Site:
    """A namespace of a server, and a shell there."""

    def __init__(self, server: EmbeddedServer, namespace: str, folder: Path) -> None:
        self.server, self.namespace = server, namespace
        self.shell = Shell(folder, PERDURE_URL=server.url, PERDURE_NAMESPACE=namespace)

    async def run(self, *arguments: str) -> Ran:
        """Type a command."""
        return await asyncio.to_thread(self.shell.type, *arguments)

    @asynccontextmanager
    async def hosting(self, *entities: Any) -> AsyncGenerator[Cluster]:
        """A runner with the visits and the clerk, or with these."""
        settings = settings_for(self.server, self.namespace)
        async with connect(settings=settings, serving=entities or (visit, clerk)) as cluster:
            yield cluster

    async def streams(self) -> list[str]:
        """The streams of the namespace."""
        own = self.namespace.upper()
        async with nats_session(self.server, self.namespace) as session:
            found = await names(session.connection, ">")
        return sorted(name for name in found if name.startswith((f"{own}_", f"KV_{own}_")))


async def open_token(cluster: Cluster, id: str) -> Token[int]:
    """The token of a flow that waits for an answer."""
    with pytest.raises(Suspended) as raised:
        await cluster.at(Visit, id).ask(Open(), key="open", on_suspend="raise")
    assert raised.value.resume_token is not None
    return Token(raised.value.resume_token)


async def fill(cluster: Cluster) -> dict[str, Token[int]]:
    """Something of everything, in each visit; their tokens."""
    tokens: dict[str, Token[int]] = {}
    at = datetime.now(UTC) + timedelta(milliseconds=NAP_MS)
    for n, id in enumerate(IDS):
        ref = cluster.at(Visit, id)
        assert await ref.ask(Note(f"first {n}"), key="first") == 1
        with pytest.raises(Empty):
            await ref.ask(Note(""), key="empty")
        await ref.tell(Nap(NAP_MS), key="nap")
        await ref.tell(Note("later"), at=at, key="later")
        tokens[id] = await open_token(cluster, id)
        with pytest.raises(Suspended):  # nobody hosts the clerk
            await ref.ask(Ask(), key="ask", on_suspend="raise")
    return tokens


async def open_flows(cluster: Cluster) -> set[tuple[str, str]]:
    """The visits' flows that are open: whose, and their keys."""
    found: list[Suspension] = [flow async for flow in cluster.suspended(Visit)]
    return {(flow.address.partition("/")[2], flow.key) for flow in found}


async def texts(cluster: Cluster, id: str) -> list[str]:
    """What a visit's log says, sorted."""
    commits = [commit async for commit in cluster.history(visit, id)]
    return sorted(event.text for commit in commits for event in commit.events)


async def told_without_runner(site: Site) -> None:
    """Commands that wait: with a key, and one without."""
    async with connect(settings=settings_for(site.server, site.namespace)) as caller:
        for id in IDS:
            await caller.at(Visit, id).tell(Note("waits"), key="waits")
        await caller.at(Visit, IDS[0]).tell(Note("bare"))


async def letters(site: Site) -> list[Any]:
    """What the copies of dead letters say; their places and times are the stream's own."""
    ran = await site.run("dead", "list", "--json")
    return [{k: v for k, v in line.items() if k not in ("seq", "time")} for line in ran.lines]


async def dead(site: Site, count: int) -> None:
    """Wait for that many dead letters."""
    async with asyncio.timeout(PATIENCE_S):
        while len(await letters(site)) < count:
            pass


def quiet(what: str, bytes: int) -> None:
    """Progress that nobody looks at."""
