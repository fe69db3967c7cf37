"""`perdure entities` on a real server: listing, going on, and the repair."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.entities.settings import Settings
from perdure.streams.jetstream.ids import JetStreamIds
from perdure.streams.port import PublishAnswer, Refused

from .commands import Ran, Shell, plain_client
from .counter import Add, Counter, counter

Server = Callable[..., Awaitable[EmbeddedServer]]
IDS = [f"c-{n}" for n in range(5)]


@pytest_asyncio.fixture
async def shell(own_server: Server, tmp_path: Path) -> Shell:
    """A server with five counters and no runner."""
    server = await own_server()
    async with connect(serving=[counter], settings=_settings(server.url)) as cluster:
        for id in IDS:
            await cluster.at(Counter, id).ask(Add(1))
    return Shell(tmp_path, PERDURE_URL=server.url)


def _settings(url: str) -> Settings:
    return Settings(url=url, shards=2, command_stream_bytes=2**24)


async def typed(shell: Shell, *arguments: str) -> Ran:
    """A command that has a loop of its own, so it needs a thread."""
    return await asyncio.to_thread(shell.type, *arguments)


async def test_ids_are_listed_in_pieces(shell: Shell) -> None:
    ran = await typed(shell, "entities", "counter")
    assert (ran.code, ran.out.split(), ran.err) == (0, IDS, "")
    ran = await typed(shell, "entities", "counter", "--prefix", "c-3")
    assert (ran.code, ran.out) == (0, "c-3\n")
    ran = await typed(shell, "entities", "counter", "--limit", "2")
    assert (ran.code, ran.out.split()) == (0, IDS[:2])
    place = ran.err.split()[-1]
    assert ran.err == f"2 ids; to go on: --after {place}\n"
    ran = await typed(shell, "entities", "counter", "--after", place, "--json")
    assert [line["id"] for line in ran.lines] == IDS[2:]
    ran = await typed(shell, "entities", "counter", "--after", ran.lines[-1]["place"])
    assert (ran.code, ran.out, ran.err) == (0, "", "no id of counter is listed\n")


async def test_what_makes_no_sense_is_told(shell: Shell) -> None:
    for arguments, code, told in (
        (("conter",), 1, "there is no entity type 'conter'"),
        (("Counter",), 2, "not an entity type's name"),
        (("counter", "--limit", "0"), 2, "--limit 0"),
        (("counter", "--after", "c-1"), 2, "isn't the place of a listing"),
        (("counter", "--after", "99999.0"), 1, "has no place 99999.0"),
        (("counter", "--rebuild", "--prefix", "c"), 2, "--rebuild with another option"),
        (("conter", "--rebuild"), 1, "there is no entity type 'conter'"),
        (("counter", "--url", "what://x"), 2, "what"),
    ):
        ran = await typed(shell, "entities", *arguments)
        assert (ran.code, told in ran.err) == (code, True), (arguments, ran)


async def test_a_lost_registry_is_made_again(shell: Shell) -> None:
    url = shell.env["PERDURE_URL"]
    client = await plain_client(url)
    answer = await client.request("$JS.API.STREAM.DELETE.PERDURE_IDS_counter", b"", timeout=5)
    assert b'"success":true' in answer.data
    await client.close()
    lost = (
        "no id of it is registered: its registry was lost, or takes nothing now; "
        "next: make it again: perdure "
    )
    ran = await typed(shell, "entities", "counter")
    assert (ran.code, ran.out) == (1, "")
    assert f"{lost}entities counter --rebuild\n" in ran.err
    ran = await typed(shell, "entities", "counter", "--rebuild")
    assert (ran.code, ran.out) == (1, "")
    assert "no stream PERDURE_IDS_counter; next: start a runner, which creates it" in ran.err
    async with connect(serving=[counter], settings=_settings(url)):  # makes the stream
        ran = await typed(shell, "entities", "counter")
        assert (ran.code, lost in ran.err) == (1, True)
        ran = await typed(shell, "entities", "counter", "--rebuild")
        assert (ran.code, ran.out) == (0, "missing and listed now: 5 ids of counter\n")
        ran = await typed(shell, "entities", "counter", "--rebuild", "--json")
        assert ran.lines == [{"added": 0}]
    ran = await typed(shell, "entities", "counter")
    assert (ran.code, sorted(ran.out.split())) == (0, IDS)


async def test_a_type_without_entities_has_lost_nothing(
    own_server: Server, tmp_path: Path
) -> None:
    server = await own_server()
    async with connect(serving=[counter], settings=_settings(server.url)):
        client = await plain_client(server.url)
        await client.request("perdure.log.counter.a", b"foreign", timeout=5)
        await client.close()
        shell = Shell(tmp_path, PERDURE_URL=server.url)
        ran = await typed(shell, "entities", "counter")
        assert (ran.code, ran.err) == (0, "no id of counter is listed\n")


async def test_a_registry_that_refuses_holds_nobody_up(
    own_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(self: JetStreamIds, *args: object, **more: object) -> PublishAnswer:
        return Refused(10077, "insufficient storage")

    server = await own_server()
    add = JetStreamIds.add
    monkeypatch.setattr(JetStreamIds, "add", refused)
    async with connect(serving=[counter], settings=_settings(server.url)) as cluster:
        assert await cluster.at(Counter, "a").ask(Add(1)) == 1
        monkeypatch.setattr(JetStreamIds, "add", add)
        assert [id async for id in cluster.ids(Counter)] == []
    errors = [vars(record)["action"] for record in caplog.records if record.levelname == "ERROR"]
    assert errors == ["ids.owed", "ids.missing"]
