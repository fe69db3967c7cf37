"""`perdure shards resize` on a real server: what it says, and that what it left halted is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from perdure import Ref
from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.streams.jetstream import resizing
from perdure.streams.jetstream.session import JetStreamSession
from perdure.streams.port import Halted, Unreachable
from perdure.streams.subjects import Sharding

from ...support.server import settings_for
from .counter import Add, Counter, counter
from .hosted import Place, hosted, place

RESIZE = ("shards", "resize", "counter")


async def test_it_says_what_it_did_and_why_not(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        assert (await at.ask("a", "add", '{"n": 5}', "--key", "k-1")).out == "5\n"
        ran = await at.run(*RESIZE, "8")
        assert (ran.code, ran.out) == (1, "")
        assert " hosts counter; it stays as it is; next: stop all of its runners" in ran.err
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run(*RESIZE, "8")
        assert (ran.code, ran.out) == (0, "counter: 4 → 8 shards, generation 2\n")
        assert ran.err.startswith("its runners can be started now")
        ran = await at.run(*RESIZE, "8")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == "counter has 8 shards as before, and takes tells\n"
        ran = await at.run("shards", "resize", "conter", "8")
        assert (ran.code, "there is no entity type 'conter'" in ran.err) == (1, True)
        await at.tell("a", b'{"type": "add", "n": 2}')
        ran = await at.run(*RESIZE, "2")
        assert (ran.code, ran.out) == (1, "")
        assert "tells wait for counter (1), and only a runner can work them off; it " in ran.err
        assert "; next: start one, stop it when perdure stats counter shows none" in ran.err
        assert await at.session.sharding("counter") == Sharding(2, 8)
    async with hosted(nats_server, namespace, tmp_path) as at:
        assert (await at.ask("a", "add", '{"n": 5}', "--key", "k-1")).out == "5\n"
        assert (await at.ask("a", "add", '{"n": 1}')).out == "8\n"
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run(*RESIZE, "2", "--json")
        (line,) = ran.lines
        before, after = {"generation": 2, "shards": 8}, {"generation": 3, "shards": 2}
        assert line == {"type": "counter", "before": before, "after": after}


async def test_what_is_left_halted_is_told_and_ended(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    """Killed at the worst moment: halted, and with its own message in the stream."""
    async with hosted(nats_server, namespace, tmp_path):
        pass
    async with place(nats_server, namespace, tmp_path) as at:
        await left_halted(at)
        ran = await at.run("check", "--type", "counter")
        assert ran.code == 1
        step = "perdure shards resize counter 4, which leaves it as it was"
        assert "counter is halted: it is being resized, or that didn't end; no runner" in ran.out
        assert step in ran.out
        with pytest.raises(Halted, match="`perdure shards resize counter 4` leaves it"):
            async with connect(serving=[counter], settings=settings_for(nats_server, namespace)):
                pass
        ran = await at.run("tell", "counter", "a", "add", '{"n": 1}')
        assert (ran.code, "has had no effect" in ran.err) == (1, True)
        assert "next: counter is halted: it is being resized" in ran.err
        ran = await at.run(*RESIZE, "4")
        assert (ran.code, ran.out) == (0, "counter has 4 shards as before, and takes tells\n")
        assert await at.session.commands.count("counter") == 0
        await left_halted(at)
        ran = await at.run(*RESIZE, "3")
        assert (ran.code, ran.out) == (0, "counter: 4 → 3 shards, generation 2\n")
        assert await at.session.commands.count("counter") == 0


async def left_halted(at: Place) -> None:
    """As by somebody who ends right after the stream stored his message."""

    async def ends(*args: object) -> None:
        raise Unreachable("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resizing, "_remove_all", ends)
        with pytest.raises(Unreachable, match="killed"):
            await at.session.halt("counter", "gone")
    assert await at.session.commands.count("counter") == 1


async def test_a_connected_client_goes_on(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    """Its asks and tells wait for the next runner, in their order; none ends with an error."""
    settings = settings_for(nats_server, namespace, ask_timeout=20)
    async with connect(settings=settings) as client:
        a = client.at(Counter, "a")
        async with connect(serving=[counter], settings=settings):
            assert await a.ask(Add(1)) == 1
            await a.tell(Add(1))  # from now on its asks come after a tell
            assert await a.ask(Add(1)) == 3
        early = asyncio.create_task(a.ask(Add(10), key="early"))
        async with place(nats_server, namespace, tmp_path) as at:
            told = asyncio.create_task(tells(a, at.session))
            ran = await at.run(*RESIZE, "16")
            assert (ran.code, ran.out) == (0, "counter: 4 → 16 shards, generation 2\n")
            await told
        assert not early.done()
        async with connect(serving=[counter], settings=settings):
            total = await a.ask(Add(100))  # after the tell, whose shard and sequence are new
            assert {await early, total} in ({13, 114}, {114, 104}, {14, 114})
            assert await a.ask(Add(10), key="early") == await early
            await a.tell(Add(1000))
            assert await a.ask(Add(1)) == 1115


async def tells(a: Ref[Counter], session: JetStreamSession) -> None:
    """A tell that meets the halted type: it is repeated until it is stored."""
    while True:
        try:
            await session.sharding("counter")
        except Halted:
            break
        await asyncio.sleep(0.005)
    await a.tell(Add(1), key="while-halted")
