"""`perdure stats`: several runners, none, and who can't be understood."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure import Entity
from perdure.deploy.cli.stats import COLUMNS, rows
from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.durable.stats import KEPT_S, RunnerStats
from perdure.streams.subjects import Subjects

from ...support.server import PATIENCE_S, settings_for
from .commands import Shell, plain_client
from .counter import Counter, counter, decide, evolve
from .hosted import hosted, place
from .told import told, told_type


async def test_every_runner_tells_what_it_has(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, namespace)
    async with (
        hosted(nats_server, namespace, tmp_path) as at,
        connect(serving=[counter], settings=settings),
    ):
        for n in range(3):
            assert (await at.ask(f"e-{n}", "add", '{"n": 1}', "--key", "k")).code == 0
        found = (await at.run("stats", "--json")).lines
        assert len(found) == 2
        types = [one["types"][0] for one in found]
        assert [(t["owned"], t["assigned"], t["terms"], t["shards"]) for t in types] == (
            [(2, 2, 2, 4)] * 2
        )
        assert sorted(number for t in types for number in t["own"]) == ([0, 1, 2, 3])
        sums = {name: sum(t[name] for t in types) for name in ("entities", "keys", "single")}
        assert sums["entities"] == sums["keys"] == 3
        assert sums["single"] + sum(t["batched"] for t in types) == 3
        assert len({t["version"] for t in types}) == 1
        assert [one["sees"] for one in found] == [2, 2]
        for one in found:
            assert one["connection"]["connected"] is True
            assert one["connection"]["dropped"] == 0
            assert one["asks"] == one["bytes"] == 0
        ran = await at.run("stats", "counter")
        assert ran.code == 0
        head, *lines = ran.out.splitlines()
        assert head.split() == " ".join(name.lstrip("#") for name in COLUMNS).split()
        assert sorted(line.split()[2] for line in lines) == ["2/4", "2/4"]
        ran = await at.run("stats", "other")
        assert ran.code == 1
        assert "no runner hosts 'other', they host counter" in ran.err


async def test_tells_that_wait_in_the_stream_are_told_once_a_type(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    labelled = Entity(Counter(), decide, evolve, label="gpu")
    settings = settings_for(nats_server, namespace)
    async with (
        hosted(nats_server, namespace, tmp_path, labelled) as at,  # nobody may own its shards
        connect(serving=[labelled], settings=settings),
    ):
        for n in range(3):
            await at.tell(f"e-{n}", b'{"type": "add", "n": 1}')
        found = (await at.run("stats", "--json")).lines
        assert [one["stored"] for one in found] == [{"counter": 3}] * 2
        assert [type["tells"] for one in found for type in one["types"]] == [0, 0]
        _, *lines = (await at.run("stats")).out.splitlines()
        column = [name.lstrip("#") for name in COLUMNS].index("STORED")
        assert [line.split()[column] for line in lines] == ["3", "-"]


async def test_watching_ends_with_ctrl_c(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        watch = ("stats", "--watch", "--every", "0.5", "--json")
        with at.shell.running(*watch) as process:
            times = [json.loads(await asyncio.to_thread(process.line))["time"] for _ in range(3)]
            process.popen.send_signal(signal.SIGINT)
            ended = await asyncio.to_thread(process.end)
        assert times == sorted(set(times))
        assert (ended.code, ended.err) == (0, "")


async def test_a_watch_shows_its_first_look_at_once(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        with at.shell.running("stats", "--watch", "--every", "3600", "--json") as process:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    line = await asyncio.to_thread(process.line)
            finally:
                process.popen.send_signal(signal.SIGINT)  # which also ends the reading
        assert json.loads(line)["types"][0]["entity"] == "counter"


async def test_where_nobody_answers(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run("stats")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == (
            f"error: no runner in namespace {namespace!r}; next: start one: perdure run APP\n"
        )
        client = await plain_client(nats_server.url)
        heard = await client.subscribe(Subjects(namespace).stats)  # a runner that is stuck
        await client.flush()
        ran = await at.run("stats")
        assert "no runner answered within 0.5 s" in ran.err
        await heard.unsubscribe()

        async def babble(message: object) -> None:
            await client.publish(getattr(message, "reply", ""), b"{}")

        await client.subscribe(Subjects(namespace).stats, cb=babble)
        await client.flush()
        ran = await at.run("stats", "--json")
        assert "an answer can't be read" in ran.lines[0]["error"]["message"]
        await client.close()
        ran = await at.run("stats", "--url", "nats://127.0.0.1:1")
        assert (ran.code, "can't connect" in ran.err) == (1, True)


@pytest.mark.parametrize(
    ("line", "says"), [(["Counter"], "not an entity type's name"), (["--every", "0"], "--every 0")]
)
def test_usage(tmp_path: Path, line: list[str], says: str) -> None:
    ran = Shell(tmp_path).type("stats", *line)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


async def test_an_answer_goes_below_the_allowed_prefixes_only_and_is_kept_for_a_moment(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path):
        client = await plain_client(nats_server.url)
        forbidden = await client.subscribe("elsewhere.x")
        await client.publish(Subjects(namespace).stats, b"", reply="elsewhere.x")
        first = await client.request(Subjects(namespace).stats, b"")
        second = await client.request(Subjects(namespace).stats, b"")
        assert first.data == second.data
        assert forbidden.pending_msgs == 0
        async with asyncio.timeout(10 * KEPT_S + 10):
            while (await client.request(Subjects(namespace).stats, b"")).data == first.data:
                pass
        await client.close()


# -- pure ---------------------------------------------------------------------------------------
def test_rates_come_from_two_looks() -> None:
    def look(time: int, commits: int) -> RunnerStats:
        type = msgspec.structs.replace(told_type(), single=commits)
        more: dict[str, Any] = {"asks": 1, "capacity": 9, "bytes": 5, "cached": 2_000_000}
        return told("r", type, type, time=time, **more)

    rate = [name.lstrip("#") for name in COLUMNS].index("PER SECOND")
    first, second = rows(look(3000, 500), look(1000, 100))
    assert first[rate] == "200"
    assert rows(look(3000, 500))[0][rate] == "-"
    assert (first[0], second[0]) == ("r", "")
    assert first[-4:] == ("1/9", "5", "2/0", "-")
    assert {len(first), len(second)} == {len(COLUMNS)}
