"""The benchmarks of many entities and of growth: their sums, and one small run of each."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks import leak, scale
from benchmarks.leak import Trend, growth, thirds
from benchmarks.leak_caller import Mix, mixed
from benchmarks.probe import Inside, descriptors, look, peak_bytes, rss_bytes
from benchmarks.process import ROOT
from benchmarks.relay import Relay, relayed
from benchmarks.scale import BLOCK, loads
from benchmarks.verdict import MIB, Figure, judged
from rich.console import Console

from ...support.server import PATIENCE_S
from .runs import ENVIRONMENT, LIMIT_S, command, finished, left_behind

QUIET = Console(quiet=True)
HERE = os.getpid()


# -- the loads ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("entities", "commits"), [(5_000, 20_000), (5_000, 25_000), (5_000, 3_001), (10, 21), (10, 10)]
)
def test_as_many_commits_as_were_wanted_spread_over_all(entities: int, commits: int) -> None:
    written: Counter[int] = Counter()
    for load in loads(entities, commits):
        assert 0 < load.entities <= BLOCK
        written.update(range(load.first, load.first + load.entities))
    assert written.total() == commits
    least = min(written[n] for n in range(entities))
    assert least == commits // entities
    assert max(written.values()) - least <= 1


# -- verdicts -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([Figure("a", 1.5, "x", 1.5), Figure("b", 99)], 0),
        ([Figure("a", 1.51, "x", 1.5)], 1),
        ([Figure("a", 0, "", 0)], 0),
    ],
)
async def test_a_missed_target_is_told_by_the_exit_code(
    found: list[Figure], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(figures: list[Figure]) -> None:
        figures += found

    file = tmp_path / "figures.json"
    assert await judged(work, "title", file, QUIET) == code
    assert msgspec.json.decode(file.read_bytes(), type=list[Figure]) == found
    assert ("missed" in capsys.readouterr().out) == bool(code)


async def test_a_failure_is_none_met() -> None:
    async def work(figures: list[Figure]) -> None:
        figures.append(Figure("a", 1))
        raise OSError("no /proc")

    assert await judged(work, "title", None, QUIET) == 1


# -- growth -------------------------------------------------------------------------------------
def inside(tasks: int, objects: int, **types: int) -> Inside:
    return Inside(tasks, objects, types)


def trend(memory: list[float], tasks: int = 0, objects: int = 0) -> Trend:
    """A process whose memory is as given, and whose tasks and objects grow by so much a look."""
    found = Trend("it", HERE, memory, [9.0] * len(memory))
    found.inside = [
        inside(5 + n * tasks, 100_000 + n * objects, Seen=n * objects) for n in range(len(memory))
    ]
    return found


def missed(found: Trend) -> list[bool]:
    return [figure.missed for figure in found.figures() if figure.most is not None]


def test_the_first_third_does_not_count() -> None:
    assert thirds([1, 2, 3, 50, 50, 50, 50, 50, 50, 50]) == (50, 50)
    assert growth([0, 0, 0, 10, 20, 30, 30, 40, 50]) == 20


def test_what_is_flat_passes_and_what_grows_is_named() -> None:
    assert missed(trend([40.0, 80, 99, 100, 103, 100, 103, 101, 103])) == [False] * 4
    memory_leaks = trend([float(100 + 2 * n) for n in range(9)])
    assert missed(memory_leaks) == [True, False, False, False]
    rest = trend([100.0] * 9, tasks=6, objects=2_000)
    assert missed(rest) == [False, True, False, True]
    assert rest.suspects() == "Seen +8,000"


# -- calls and cuts -----------------------------------------------------------------------------
class Lenient:
    """A cluster that refuses nothing."""

    def at(self, *_: object) -> Lenient:
        return self

    async def ask(self, *_: object, **more: object) -> int:
        return 1

    tell = query = result = state = ask


async def test_what_is_not_refused_fails_the_run() -> None:
    cluster: Any = Lenient()
    found = Counter(await mixed(cluster, Mix(200, 2, 5, 1, 60)))
    assert set(found) == {"refused: not refused", "reused: not refused"}
    assert [figure.missed for figure in leak.ended(found, 9)] == [False, False, True]


@pytest.mark.parametrize(
    ("cuts", "failed", "missed"), [(0, 1, True), (1, 32, False), (1, 33, True)]
)
def test_a_cut_ends_no_more_calls_than_are_on_their_way(
    cuts: int, failed: int, missed: bool
) -> None:
    found = leak.ended(Counter({"ask: RunnerUnavailable": failed}), cuts)
    assert [figure.missed for figure in found] == [False, missed, False]


async def test_a_relay_counts_the_cuts_of_what_was_connected() -> None:
    ended = asyncio.Semaphore(0)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1):
                writer.write(data)
        except ConnectionResetError:
            pass  # that is how it is cut
        finally:
            writer.transport.abort()
            ended.release()

    async def connected(relay: Relay) -> asyncio.StreamWriter:
        port = int(relay.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        return writer

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        async with relayed(server.sockets[0].getsockname()[1]) as relay:
            relay.cut()
            assert relay.cuts == 0
            first = await connected(relay)
            relay.cut()
            second = await connected(relay)
        assert relay.cuts == 1
        for writer in (first, second):
            writer.transport.abort()
            await ended.acquire()


async def test_cuts_go_on_from_part_to_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """No part is as long as the time between two cuts."""
    monkeypatch.setattr(leak, "CUT_S", 0.05)
    order: list[int] = []

    class Line:
        def __init__(self, number: int) -> None:
            self.number = number

        def cut(self) -> None:
            order.append(self.number)

    lines: Any = [Line(0), Line(1)]
    cuts = leak.Cuts(lines)
    async with asyncio.timeout(PATIENCE_S):
        while len(order) < 4:
            async with cuts.during():
                await asyncio.sleep(0.02)
    assert order == [0, 1, 0, 1]


async def test_what_a_process_holds() -> None:
    before = descriptors(HERE)
    one, other = os.pipe()
    assert descriptors(HERE) == before + 2
    os.close(one)
    os.close(other)
    assert MIB < rss_bytes(HERE) <= peak_bytes(HERE)
    kept = [[n] for n in range(10_000)]
    held = look()
    assert held.types["list"] > len(kept)
    assert (held.tasks, held.entities) == (1, 0)


# -- small runs, with real servers --------------------------------------------------------------
def figures_of(module: str, folder: Path, *arguments: str) -> dict[str, Any]:
    file = folder / "figures.json"
    done = finished(
        f"benchmarks.{module}", *arguments, "--json", file, "--store", folder / "store"
    )
    assert done.returncode in (0, 1), done.stderr  # so small a run says nothing of targets
    assert not re.search(r"^[A-Z]\w+: ", done.stderr, re.MULTILINE), done.stderr  # what failed
    assert list((folder / "store").iterdir()) == []
    assert list(left_behind(folder)) == []
    return {
        one.name: one.value for one in msgspec.json.decode(file.read_bytes(), type=list[Figure])
    }


def test_a_small_run_of_scale(tmp_path: Path) -> None:
    small = ("--entities", "1200", "--commits", "2400", "--cache", "1")
    found = figures_of("scale", tmp_path, *small, "--seconds", "0.1", "--rounds", "1")
    assert found["commands without an outcome"] == 0
    assert 0 < found["entities in memory"] < 400
    assert found["runner's memory at most"] > found["runner's memory before"]
    assert found["warm ask, p99 beside that"] > 0
    assert found["a raw direct get, p50"] > 0


def test_a_small_run_of_leak(tmp_path: Path) -> None:
    found = figures_of("leak", tmp_path, "--calls", "640", "--entities", "50")
    assert found["calls that ended as they shouldn't"] == 0
    assert found["runner: tasks"] > 16  # one a shard at least
    assert found["caller: memory"] > 1


def test_ctrl_c_ends_a_load(tmp_path: Path) -> None:
    endless = command("benchmarks.scale", "--commits", "100000000", "--store", tmp_path)
    with subprocess.Popen(endless, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        try:
            while not any("benchmarks.caller" in said for said in left_behind(tmp_path)):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == 130
        finally:
            process.kill()
    assert list(left_behind(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (scale, ("--entities", "1000"), "--entities: more than"),
        (scale, ("--seconds", "0"), "--seconds"),
        (scale, ("--cache", "0"), "--cache"),
        (leak, ("--calls", "9"), "--calls: from"),
    ],
)
def test_wrong_usage(
    module: Any, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        module.parse(arguments)
    assert said in capsys.readouterr().err
