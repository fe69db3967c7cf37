"""`perdure drain`: a runner gives its shards away and ends, and what stands in the way of that."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.streams.members import Draining, Kept, encode_word
from perdure.streams.subjects import Subjects

from ...support.server import PATIENCE_S, settings_for
from .commands import APP, Shell
from .counter import counter
from .hosted import hosted, place
from .told import answering, told, told_type


async def test_a_drained_runner_gives_its_shards_away_and_ends_with_0(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        with at.shell.running("run", "app", "--json") as process:
            process.ready()
            rows = (await at.run("runners", "--json")).lines
            name = next(r["runner"] for r in rows if r["process"] == process.popen.pid)
            assert (await at.ask("a", "add", '{"n": 1}', "--key", "k")).code == 0
            ran = await at.run("drain", name[:6])
            assert ran.code == 0
            assert re.fullmatch(f"runner {name} is gone, after [0-9.]+ s\n", ran.out)
            ended = await asyncio.to_thread(process.end)
        assert ended.code == 0
        assert f"runner {name} was told to drain" in ended.err
        assert f"runner {name} stopped" in ended.err
        assert "ERROR" not in ended.err
        (row,) = (await at.run("runners", "--json")).lines
        assert row["types"] == [{"entity": "counter", "owned": 4, "assigned": 4}]
        assert (await at.ask("a", "add", '{"n": 1}', "--key", "k")).out == "1\n"


async def test_not_waited_for(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> None:
    settings = settings_for(nats_server, namespace)
    async with (
        hosted(nats_server, namespace, tmp_path) as at,
        connect(serving=[counter], settings=settings) as second,
    ):
        name = second.runner_id or ""
        assert not second.drained.is_set()
        ran = await at.run("drain", name, "--no-wait", "--json")
        assert ran.lines == [{"runner": name, "gone": False, "seconds": 0.0}]
        await asyncio.wait_for(second.drained.wait(), PATIENCE_S)
        rows = (await at.run("runners", "--json")).lines
        assert {row["runner"]: row["state"] for row in rows}[name] == "leaving"


async def test_a_program_that_does_not_end_is_told(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        (row,) = (await at.run("runners", "--json")).lines
        ran = await at.run("drain", row["runner"], "--timeout", "2")
        assert (ran.code, ran.out) == (1, "")
        alone, error = ran.err.splitlines()[0], ran.err.splitlines()[-1]
        assert alone == "nobody else may own counter: its commands wait until somebody may"
        assert "has no shards any more, and is still there after 2 s; next: end process " in error
        ran = await at.run("shards")
        assert (ran.code, "4 unowned" in ran.out) == (1, True)


async def test_which_runner_is_not_clear(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    there = [told("ab1", told_type(0)), told("ab2", told_type(1)), told("ab", told_type(2))]
    async with (
        place(nats_server, namespace, tmp_path) as at,
        answering(nats_server.url, namespace, lambda: there),
    ):
        for given, says in (
            ("c", "there is no runner 'c'; there are ab, ab1, ab2"),
            ("", "there is no runner ''; there are ab, ab1, ab2"),
            ("a", "several runners begin with 'a'; there are ab, ab1, ab2"),
            ("ab", "runner ab is gone: nobody listens there"),
            ("ab2", "runner ab2 is gone: nobody listens there"),
        ):
            ran = await at.run("drain", given)
            assert (ran.code, ran.out) == (1, "")
            assert says in ran.err


async def test_a_runner_that_does_not_do_it(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    says: list[bytes | None] = [None]

    async def hear(message: Any) -> None:
        if says[0] is not None:
            await message.respond(says[0])

    stuck = [told("a", told_type(0, 1, 2, 3), process=7)]
    async with (
        place(nats_server, namespace, tmp_path) as at,
        answering(nats_server.url, namespace, lambda: stuck) as client,
    ):
        await client.subscribe(Subjects(namespace).member("a"), cb=hear)
        await client.flush()
        ran = await at.run("drain", "a")
        assert (ran.code, "runner a doesn't answer: it is frozen or cut off" in ran.err) == (
            1,
            True,
        )
        for word in (encode_word(Kept()), b"nonsense", b""):
            says[0] = word
            ran = await at.run("drain", "a")
            assert (ran.code, "runner a doesn't know how to drain" in ran.err) == (1, True)
        says[0] = encode_word(Draining())
        ran = await at.run("drain", "a", "--timeout", "1")
        assert ran.code == 1
        assert "runner a still has 4 shards of counter\n" in ran.err
        assert "runner a still has 4 shards of counter after 1 s; next: see its log" in ran.err


async def test_where_nobody_is(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run("drain", "a")
        assert (ran.code, "no runner in namespace" in ran.err) == (1, True)


async def test_dev_goes_on_without_a_runner_until_its_code_changes(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with shell.running("dev", "app.py", "--port", "0", "--store", "s", "--json") as process:
        at = shell.at(PERDURE_URL=process.ready()["url"])
        (row,) = (await asyncio.to_thread(at.type, "runners", "--json")).lines
        ran = await asyncio.to_thread(at.type, "drain", row["runner"])
        assert ran.code == 0
        async with asyncio.timeout(PATIENCE_S):
            while "the runner was drained: there is no runner" not in process.err.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        (tmp_path / "app.py").write_text(APP + "\n")
        assert (await asyncio.to_thread(process.ready))["reloaded"] == ["app.py"]
        (other,) = (await asyncio.to_thread(at.type, "runners", "--json")).lines
        assert other["runner"] != row["runner"]
        process.interrupt()
        assert (await asyncio.to_thread(process.end)).code == 0
