"""Backup and restore, on real servers: what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import Cluster, Suspended, Suspension, Token, connect
from perdure.deploy.server import EmbeddedServer
from perdure.streams.jetstream.scan import names
from perdure.streams.port import Halted
from perdure.streams.topology import RESTORING

from ...support.server import PATIENCE_S, nats_session, settings_for, until
from .commands import MAIN, Ran, Shell
from .counter import Add, Counter, Take, TooFew, counter
from .visiting import Ask, Clerk, Empty, Nap, Note, Open, Stamp, Visit, clerk, visit

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
IDS = ("v-0", "v-1", "=ü/v 2")
NAP_MS = 2_500
"""Longer than it takes to stop the runner; shorter than anybody wants to wait."""

APP = Path(__file__).with_name("visiting.py").read_text()


class Site:
    """A namespace of a server, and a shell there."""

    def __init__(self, server: EmbeddedServer, namespace: str, folder: Path) -> None:
        self.server, self.namespace = server, namespace
        self.shell = Shell(folder, PERDURE_URL=server.url, PERDURE_NAMESPACE=namespace)

    async def run(self, *arguments: str) -> Ran:
        return await asyncio.to_thread(self.shell.type, *arguments)

    @asynccontextmanager
    async def hosting(self, *entities: Any) -> AsyncGenerator[Cluster]:
        settings = settings_for(self.server, self.namespace)
        async with connect(settings=settings, serving=entities or (visit, clerk)) as cluster:
            yield cluster

    async def streams(self) -> list[str]:
        async with nats_session(self.server, self.namespace) as session:
            return sorted(await names(session.connection, ">"))


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
    found: list[Suspension] = [flow async for flow in cluster.suspended(Visit)]
    return {(flow.address.partition("/")[2], flow.key) for flow in found}


async def texts(cluster: Cluster, id: str) -> list[str]:
    commits = [commit async for commit in cluster.history(visit, id)]
    return sorted(event.text for commit in commits for event in commit.events)


async def told_without_runner(site: Site) -> None:
    """Commands that wait: with a key, without one, and one that can't be decoded."""
    async with connect(settings=settings_for(site.server, site.namespace)) as caller:
        for id in IDS:
            await caller.at(Visit, id).tell(Note("waits"), key="waits")
        await caller.at(Visit, IDS[0]).tell(Note("bare"))


async def letters(site: Site) -> list[Any]:
    """What the copies of dead letters say; their places and times are the stream's own."""
    ran = await site.run("dead", "list", "--json")
    return [{k: v for k, v in line.items() if k not in ("seq", "time")} for line in ran.lines]


async def test_all_of_it_comes_back(
    nats_server: EmbeddedServer, own_server: OwnServer, namespace: str, tmp_path: Path
) -> None:
    here = Site(nats_server, namespace, tmp_path)
    (tmp_path / "visiting_app.py").write_text(APP)
    async with here.hosting(visit) as cluster:
        async with here.hosting(clerk):
            pass  # its streams are there
        tokens = await fill(cluster)
        waiting = await open_flows(cluster)
        assert {key for _, key in waiting} >= {"nap", "later", "open", "ask"}
        await cluster.at(Visit, "v-1").tell(Note("dies"), key="dies")
        async with nats_session(nats_server, namespace) as session:
            to = session.subjects.to("visit", "v-1")
            assert session.connection.send(to, b'{"type":"nonsense"}')
        ids = [id async for id in cluster.ids(Visit)]
        await dead(here, 1)
    await told_without_runner(here)
    dead_letters = await letters(here)
    folder = tmp_path / "kept"
    ran = await here.run("backup", str(folder), "--json")
    assert ran.code == 0, ran
    assert {(line["saved"], line["tells"]) for line in ran.lines if "saved" in line} == {
        ("visit", 4),
        ("clerk", 3),
    }
    assert ran.lines[-1]["one_instant"]
    assert ran.lines[-1]["secret"] == "saved"
    for path in (folder, *folder.iterdir()):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path

    there = Site(await own_server(), namespace, tmp_path)
    ran = await there.run("restore", str(folder), "--app", "visiting_app.py", "--json")
    assert ran.code == 0, ran
    done = {line["restored"]: line for line in ran.lines if "restored" in line}
    assert (done["visit"]["tells"], done["visit"]["dead_letters"]) == (4, 1)
    assert done["visit"]["timers"] >= len(waiting)
    assert await letters(there) == dead_letters
    async with there.hosting() as cluster:
        assert [id async for id in cluster.ids(Visit)] == ids
        for n, id in enumerate(IDS):
            ref = cluster.at(Visit, id)
            assert await ref.ask(Note(f"first {n}"), key="first") == 1
            with pytest.raises(Empty):
                await ref.ask(Note(""), key="empty")
            assert await open_token(cluster, id) == tokens[id]
            await cluster.resume(tokens[id], n)
            assert await ref.result(Open, "open") == f"told {n}"
            assert await ref.result(Nap, "nap") == "slept"
            assert await ref.result(Note, "later") > 1
            assert (await ref.result(Ask, "ask")).startswith("stamp ")
            assert await ref.result(Note, "waits") > 1
        assert await cluster.at(Clerk, "c-1").ask(Stamp()) == len(IDS) + 1  # each once
        for n, id in enumerate(IDS):
            wanted = [f"answer {n}", "awake", f"first {n}", "later", "stamped", "waits"]
            more = {"v-0": ["bare"], "v-1": ["dies"]}.get(id, [])
            assert await texts(cluster, id) == sorted([*wanted, *more])
        left = {key.partition(":")[0] for _, key in await open_flows(cluster)}
        assert left == {"schedule"}
    assert (await there.run("verify", "--app", "visiting_app.py")).code == 0


async def dead(site: Site, count: int) -> None:
    """Wait for that many dead letters."""
    async with asyncio.timeout(PATIENCE_S):
        while len(await letters(site)) < count:
            pass
