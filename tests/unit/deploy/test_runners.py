"""`perdure runners` and `perdure shards`: real ones, frozen ones, and planted answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, repeat
from pathlib import Path

import pytest

from perdure import Entity, Singleton
from perdure.deploy.cli.runners import COLUMNS
from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.durable.stats import RunnerStats

from ...support.server import PATIENCE_S, settings_for
from .commands import Shell
from .counter import Add, Counter, counter, decide, evolve
from .hosted import Place, hosted, place
from .told import answering, told, told_type


async def for_ever(_: Singleton) -> None:
    await asyncio.Event().wait()


async def returns(_: Singleton) -> None:
    pass


async def fails(_: Singleton) -> None:
    raise ValueError("as planned")


async def singletons(at: Place) -> dict[str, list[str]]:
    rows = (await at.run("runners", "--json")).lines
    return {row["runner"]: row["singletons"] for row in rows if row["singletons"]}


async def test_each_runner_is_a_row_and_each_shard_has_one_owner(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, namespace, weight=3.0, labels=("gpu", "eu"))
    async with (
        hosted(nats_server, namespace, tmp_path) as at,
        connect(serving=[counter], settings=settings) as second,
    ):
        found = {row["runner"]: row for row in (await at.run("runners", "--json")).lines}
        assert len(found) == 2
        row = found[second.runner_id or ""]
        assert {row["state"] for row in found.values()} == {"well"}
        assert row["types"] == [{"entity": "counter", "owned": 3, "assigned": 3}]
        assert (row["process"], row["weight"], row["labels"]) == (os.getpid(), 3.0, ["gpu", "eu"])
        assert len({row["machine"] for row in found.values()} - {None}) == 2
        ran = await at.run("runners")
        assert ran.code == 0
        head, *lines = ran.out.splitlines()
        assert head.split() == [name.lstrip("#") for name in COLUMNS]
        assert sorted(" ".join(line.split()[3:]) for line in lines) == [
            f"counter 1/1 1 - {next(r['machine'] for r in found.values() if r is not row)} well",
            f"counter 3/3 3 gpu, eu {row['machine']} well",
        ]
        ran = await at.run("shards", "counter")
        assert ran.code == 0
        first, empty, head, *lines = ran.out.splitlines()
        assert first == "counter: 4 shards, generation 1, 2 owners, imbalance 0"
        assert (empty, head.split()) == ("", ["TYPE", "SHARD", "OWNER", "STATE"])
        assert [line.split()[1] for line in lines] == ["0", "1", "2", "3"]
        (layout,) = (await at.run("shards", "--json")).lines
        assert layout["owners"] == {name: r["types"][0]["owned"] for name, r in found.items()}
        await second.singleton("nightly", for_ever)
        async with asyncio.timeout(PATIENCE_S):
            while not (held := await singletons(at)):
                pass
        assert held == {second.runner_id: ["nightly"]}
        assert "counter 3/3, nightly (singleton)" in (await at.run("runners")).out
        await second.singleton("once", returns)
        await second.singleton("broken", fails)
        async with asyncio.timeout(PATIENCE_S):
            while (
                ", broken (singleton, fails), nightly (singleton), once (singleton, ended)"
                not in (await at.run("runners")).out
            ):
                pass
        ran = await at.run("shards", "other")
        assert (ran.code, "no runner hosts 'other', they host counter" in ran.err) == (1, True)


async def test_a_label_that_no_runner_has(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    labelled = Entity(Counter(), decide, evolve, label="gpu")
    async with hosted(nats_server, namespace, tmp_path, labelled) as at:
        await at.tell("a", b'{"type": "add", "n": 2}')
        ran = await at.run("shards", "counter")
        assert ran.code == 1
        head = "counter: 4 shards, generation 1, 0 owners, imbalance 0, 4 unowned; "
        assert ran.out.splitlines()[0] == f"{head}no runner that hosts it has the label gpu"
        ran = await at.run("check", "--type", "counter")
        assert ran.code == 1
        assert "no runner that hosts it has the label gpu, so nobody may own its 4" in ran.out
        assert "start one that has it: PERDURE_LABELS=gpu perdure run APP" in ran.out
        ran = await at.run("ask", "counter", "a", "add", '{"n": 1}', "--timeout", "1")
        assert (ran.code, "RunnerUnavailable" in ran.err) == (1, True)
        settings = settings_for(nats_server, namespace, labels=("gpu",))
        async with connect(serving=[labelled], settings=settings) as second:
            assert await second.at(Counter, "a").ask(Add(1)) == 3
            (layout,) = (await at.run("shards", "--json")).lines
            assert (layout["owners"], layout["lacked"]) == ({second.runner_id: 4}, "")
            assert (await at.run("check", "--type", "counter")).code == 0


async def test_a_frozen_runner_is_silent(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    patient = {"frozen_after": 600.0, "heartbeat": 100.0, "member_ttl": 300.0}
    async with hosted(nats_server, namespace, tmp_path, **patient) as at:
        shell = at.shell.at(PERDURE_HEARTBEAT="100", PERDURE_MEMBER_TTL="300")
        with shell.running("run", "app", "--json") as process:
            process.ready()
            process.popen.send_signal(signal.SIGSTOP)
            rows = (await at.run("runners", "--json")).lines
            assert sorted(row["state"] for row in rows) == ["silent", "well"]
            silent = next(row for row in rows if row["state"] == "silent")
            assert (silent["process"], silent["types"]) == (process.popen.pid, [])
            ran = await at.run("shards")  # what it has nobody tells
            assert (ran.code, "2 unowned" in ran.out.splitlines()[0]) == (1, True)
            ran = await at.run("check", "--type", "counter", "--role", "operator")
            assert ran.code == 1
            assert "1 of 2 runners answer, the rest is dead or frozen" in ran.out
            process.popen.send_signal(signal.SIGCONT)
            async with asyncio.timeout(PATIENCE_S):
                while (await at.run("shards")).code:
                    pass


@pytest.mark.parametrize("command", ["runners", "shards"])
async def test_watching_shows_what_changes_until_ctrl_c(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path, command: str
) -> None:
    settings = settings_for(nats_server, namespace)
    async with hosted(nats_server, namespace, tmp_path) as at:
        with at.shell.running(command, "--watch", "--every", "0.5", "--json") as process:
            first = json.loads(await asyncio.to_thread(process.line))
            async with asyncio.timeout(PATIENCE_S), connect(serving=[counter], settings=settings):
                whose = "runner" if command == "runners" else "owners"
                while json.loads(await asyncio.to_thread(process.line))[whose] == first[whose]:
                    pass
            process.popen.send_signal(signal.SIGINT)
            ended = await asyncio.to_thread(process.end)
        assert (ended.code, ended.err) == (0, "")


async def test_a_watch_into_a_pipe_tells_the_time_and_when_the_server_is_away(
    tmp_path: Path, namespace: str
) -> None:
    async with EmbeddedServer(tmp_path / "store", port=0) as server:
        shell = Shell(tmp_path, PERDURE_URL=server.url, PERDURE_NAMESPACE=namespace)
        with shell.running("runners", "--watch", "--every", "0.5") as process:
            times = [await asyncio.to_thread(process.line) for _ in range(2)]
            moments = [datetime.fromisoformat(line.removeprefix("--- ")) for line in times]
            assert moments == sorted(set(moments))
            assert "no runner in namespace" in process.err.read_text()
            await server.stop()
            async with asyncio.timeout(PATIENCE_S):
                while "the connection to the server is lost; next" not in process.err.read_text():
                    await asyncio.to_thread(process.line)
            process.terminate()
            ended = await asyncio.to_thread(process.end)
    assert ended.code == 0


@pytest.mark.parametrize("command", ["runners", "shards"])
async def test_where_nobody_answers(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path, command: str
) -> None:
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run(command)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == (
            f"error: no runner in namespace {namespace!r}; next: start one: perdure run APP\n"
        )


async def test_a_shard_of_nobody_and_one_of_two(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    pair = [told("a", told_type(0, 1), sees=2), told("b", told_type(1, 3), sees=2)]
    async with (
        place(nats_server, namespace, tmp_path) as at,
        answering(nats_server.url, namespace, lambda: pair),
    ):
        ran = await at.run("shards")
        assert ran.code == 1
        first, _, _, *lines = (line.split() for line in ran.out.splitlines())
        assert "1 unowned, 1 twice" in " ".join(first)
        assert lines[1][1:] == ["1", "a,", "b", "twice"]
        assert lines[2][1:] == ["2", "-", "unowned"]
        assert (await at.run("shards", "--json")).code == 1
        assert (await at.run("runners")).code == 0


async def test_a_shard_that_only_moves_is_no_fault(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    moves, well = told("a", told_type(0, 1, 3)), told("a", told_type(0, 1, 2, 3))
    looks: Iterator[RunnerStats] = chain([moves], repeat(well))
    async with (
        place(nats_server, namespace, tmp_path) as at,
        answering(nats_server.url, namespace, lambda: [next(looks)]),
    ):
        ran = await at.run("shards")
        assert (ran.code, "unowned" in ran.out) == (0, False)
        assert next(looks) is well  # it looked twice


async def test_views_that_differ(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    pair = [told("a", told_type(0, 1), sees=2), told("b", told_type(2, 3), sees=1)]
    async with (
        place(nats_server, namespace, tmp_path) as at,
        answering(nats_server.url, namespace, lambda: pair),
    ):
        ran = await at.run("runners")
        assert ran.code == 0
        assert ran.out.splitlines()[2].endswith("differs: sees 1 of 2")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["shards", "Counter"], "not an entity type's name"),
        (["shards", "--every", "0"], "--every 0"),
        (["runners", "--every", "nan"], "--every nan"),
        (["drain", "a", "--timeout", "0"], "--timeout 0"),
        (["drain"], "RUNNER requires an argument"),
    ],
)
def test_usage(tmp_path: Path, line: list[str], says: str) -> None:
    ran = Shell(tmp_path).type(*line)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


def test_help(tmp_path: Path) -> None:
    ran = Shell(tmp_path).type("shards", "--help")
    assert ran.code == 0
    assert "Usage: perdure shards [TYPE] [OPTIONS]" in ran.out
    assert "• perdure shards account --watch" in ran.out
