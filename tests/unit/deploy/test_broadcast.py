"""`perdure broadcast` on a real server: who is told, what is refused before, and going on."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
from collections import Counter as Count
from pathlib import Path

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect

from ...support.server import settings_for
from .commands import Process, Shell
from .counter import Add, Counter, GetTotal
from .hosted import Place, hosted, place

IDS = [f"c-{n:03}" for n in range(60)]
GIFT = ("counter", "add", '{"n": 10}', "--key", "gift-1")


async def filled(server: EmbeddedServer, namespace: str, ids: list[str]) -> None:
    """Each counter has counted one."""
    async with connect(settings=settings_for(server, namespace)) as cluster:
        await asyncio.gather(*(cluster.at(Counter, id).ask(Add(1)) for id in ids))


async def totals(server: EmbeddedServer, namespace: str, ids: list[str]) -> Count[int]:
    """What the counters count, after the tells that were stored before."""
    async with connect(settings=settings_for(server, namespace)) as cluster:
        refs = [cluster.at(Counter, id) for id in ids]
        await asyncio.gather(*(ref.ask(Add(0), durable=True) for ref in refs))
        return Count(await asyncio.gather(*(ref.query(GetTotal()) for ref in refs)))


async def test_each_is_told_once_however_often_it_is_typed(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await filled(nats_server, namespace, IDS[:12])
        ran = await at.run("broadcast", *GIFT)
        assert (ran.code, ran.out) == (0, "12 tells stored for counter, under the key gift-1\n")
        typed = "perdure broadcast counter add '{\"n\": 10}' --key gift-1"
        assert ran.err == f"to go on if this ends: {typed}\n"
        ran = await at.run("broadcast", *GIFT, "--json")
        first, *_, last = ran.lines
        assert first == {"key": "gift-1", "told": 0, "place": "0.0", "done": False}
        assert (ran.code, last["told"], last["done"], ran.err) == (0, 12, True, "")
        assert await totals(nats_server, namespace, IDS[:12]) == {11: 12}
        ran = await at.run("broadcast", *GIFT, "--after", last["place"])
        assert (ran.code, ran.out, ran.err) == (0, "", "no id of counter is listed\n")
        ran = await at.run(
            "broadcast", "counter", "take", '{"n": 1}', "--prefix", "c-00", "--json"
        )
        (key,) = {line["key"] for line in ran.lines}
        assert (ran.code, ran.lines[-1]["told"], key[:2]) == (0, 10, "t-")
        assert await totals(nats_server, namespace, IDS[:12]) == {10: 10, 11: 2}


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("counter ad", 1, "no command 'ad'; counter takes: add, take, get_total"),
        ("""counter add '{"n": "10"}'""", 1, "next: counter takes add {"),
        ("""counter add '{"m": 10}'""", 1, "next: counter takes add {"),
        ("counter get_total", 1, "a query has none"),
        ("""counter add '{"n": 5}' --key used""", 1, "this key was used before"),
        ("conter add", 1, "there is no entity type 'conter'"),
        ("Counter add", 2, "not an entity type's name"),
        ("counter add '[]'", 2, "not a JSON object"),
        ("counter add --rate 0", 2, "--rate 0; next: give tells a second"),
        ("counter add --rate nan", 2, "--rate nan"),
        ("counter add --key k --after x", 2, "isn't the place of a listing"),
        ("counter add --after 1.0", 2, "--after without --key"),
        ("counter add --key 'a b'", 2, "not an idempotency key"),
        ("counter add --prefix x", 0, "no id of counter is listed there"),
    ],
)
async def test_what_nobody_takes_is_told_to_nobody(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path, line: str, code: int, says: str
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await at.ask("a", "add", '{"n": 1}', "--key", "used")
        ran = await at.run("broadcast", *shlex.split(line))
        assert (ran.code, ran.out, says in ran.err) == (code, "", True), ran
        assert (await at.bounds(at.subjects.command_stream("counter"))).last_seq == 0


async def test_a_runner_must_say_whether_it_takes_it(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await at.ask("a", "add", '{"n": 1}')
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run("broadcast", *GIFT)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("error: RunnerNotRegistered: ")
        assert "it has had no effect; next: a runner must say whether it takes this" in ran.err


async def told(process: Process, enough: int) -> dict[str, object]:
    """Progress, once so many were told."""
    while True:
        line = await asyncio.to_thread(process.ready)
        assert line["done"] is False
        if line["told"] >= enough:
            return line


async def test_killed_in_the_middle_and_gone_on_with(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await filled(nats_server, namespace, IDS)
        with at.shell.running("broadcast", *GIFT, "--rate", "20", "--json") as process:
            last = await told(process, 10)
            process.popen.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.popen.wait)
        assert (await totals(nats_server, namespace, IDS))[1] > 5  # it was in the middle
        ran = await at.run("broadcast", *GIFT, "--after", str(last["place"]), "--json")
        assert (ran.code, ran.lines[-1]["done"]) == (0, True)
        assert ran.lines[-1]["told"] == 60 - int(str(last["told"]))
        assert await totals(nats_server, namespace, IDS) == {11: 60}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_who_interrupts_it_is_told_how_to_go_on(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path, number: signal.Signals
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await filled(nats_server, namespace, IDS)
        fields = """{"n": 10, "note": "it's"}"""
        line = ("counter", "add", fields, "--rate", "20", "--prefix", "c-")
        with at.shell.running("broadcast", *line) as process:
            await until_stored(at, 10)
            process.popen.send_signal(number)
            ran = await asyncio.to_thread(process.end)
        assert (ran.code, ran.out) == (1, "")
        head, end = ran.err.splitlines()
        assert head.startswith("to go on if this ends: perdure broadcast counter add ")
        found = re.fullmatch(
            r"error: interrupted; (?:\d+ tells? or more are stored|hardly begun); "
            r"next: to go on: perdure (broadcast .* --prefix c- --rate 20(?: --after \d+\.\d+)?)",
            end,
        )
        assert found is not None, end
        ran = await at.run(*shlex.split(found[1].replace("--rate 20", "--rate 1000")))
        assert ran.code == 0, ran
        assert await totals(nats_server, namespace, IDS) == {11: 60}


async def until_stored(at: Place, count: int) -> None:
    """Wait until so many tells are in the stream, handled or not."""
    async with asyncio.timeout(30):
        while (await at.bounds(at.subjects.command_stream("counter"))).last_seq < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_help(tmp_path: Path) -> None:
    ran = await asyncio.to_thread(Shell(tmp_path).type, "broadcast", "--help")
    assert (ran.code, "perdure broadcast TYPE COMMAND [FIELDS]" in ran.out) == (0, True)
