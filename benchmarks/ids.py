"""How long a million ids take to list, and what those who publish notice of it.

    python -m benchmarks.ids                          # a million, registered one by one
    python -m benchmarks.ids --ids 100000 --rounds 5
    python -m benchmarks.ids --pages                  # the same registry, filled in seconds

It starts a nats-server of its own below `--store`, fills a type's log with an entity an id (atomic
batches), and its registry as runners do: `--runners` registrars, each with one id at a
time, which is the worst shape that the registry can have. Then it lists all ids while another
process publishes commits in a closed loop to thousands of entities of that log; before and after
each listing, the same without it. The ratio is the median of the rounds. Before all that, one
registration after another is timed beside one append after another: what a first commit costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

from perdure import Settings, State
from perdure.deploy.process import loop_factory
from perdure.deploy.server import EmbeddedServer
from perdure.durable.registrar import Registrar
from perdure.entities.address import Address
from perdure.streams.client import Cluster
from perdure.streams.codec import digest
from perdure.streams.commit import Sealed
from perdure.streams.jetstream.session import JetStreamSession, open_session
from perdure.streams.port import BATCH_COMMITS, Append, Appended
from perdure.streams.registration import PARTS, encode

from .closed import quantile
from .process import ROOT
from .verdict import new_folder

BODY = json.dumps({"v": 1, "events": [{"type": "deposited", "cents": 5}], "pad": "x" * 200})
SEALED = Sealed("benchmark", BODY.encode(), digest(BODY.encode()))
OWN = 1000
"""Entities that each publisher goes round."""
FILLERS = 4
"""Batches under way while the log is filled."""
REBUILD_S = 5.0
"""A publisher's time before its first measurement."""
ALONE = 2000
"""First commits that are timed one after another."""
ALONE_ID = "alone-"
LEAST_S = 0.5
"""A listing that is shorter than this is too short for a p99."""


class Customer(State):
    pass


TYPE = "customer"


def settings(url: str) -> Settings:
    return Settings(url=url, command_stream_bytes=2**24)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--runners", type=int, default=64, help="that register at once")
    parser.add_argument("--pages", action="store_true", help="write rolled-up pages at once")
    parser.add_argument("--publishers", type=int, default=16, help="in a closed loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base-s", type=float, default=10.0, help="measured without a listing")
    parser.add_argument("--store", type=Path, default=ROOT / ".bench", metavar="DIR")
    parser.add_argument("--publish-to", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


# -- publishers, in a process of their own ----------------------------------------------------
async def publish(url: str, publishers: int) -> None:
    """Append in a closed loop; at each line of standard input tell what was measured since."""
    session = await open_session(settings(url), name="publishers")
    times: list[float] = []
    tasks = [asyncio.create_task(_publisher(session, n, times)) for n in range(publishers)]
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    began = time.perf_counter()
    while await lines.readline():
        taken, now = sorted(times), time.perf_counter()
        times.clear()
        seconds, began = now - began, now
        told = {"rate": len(taken) / seconds, **{f"p{p}": _percentile(taken, p) for p in (50, 99)}}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await session.close()


async def _publisher(session: JetStreamSession, number: int, times: list[float]) -> None:
    expected = [0] * OWN
    while True:
        for n in range(OWN):
            began = time.perf_counter()
            address = Address(TYPE, f"published-{number}-{n}")
            answer = await session.log.append(address, SEALED, expected=expected[n])
            times.append(time.perf_counter() - began)
            if isinstance(answer, Appended):
                expected[n] = answer.sequence


def _percentile(taken: list[float], percent: int) -> float:
    return 1000 * quantile(taken, percent / 100)


class Publishers:
    """The other process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, url: str, publishers: int) -> Publishers:
        program = (sys.executable, "-m", "benchmarks.ids", "--publish-to", url)
        more = ("--publishers", str(publishers))
        made = cls(await asyncio.create_subprocess_exec(*program, *more, stdin=PIPE, stdout=PIPE))
        await made.told()
        await asyncio.sleep(REBUILD_S)
        return made

    async def told(self) -> dict[str, float]:
        """What was measured since the last time, in milliseconds and commits a second."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(b"\n")
        return dict(json.loads(await stdout.readline()))

    async def over(self, seconds: float) -> dict[str, float]:
        """What is measured from now on."""
        await self.told()
        await asyncio.sleep(seconds)
        return await self.told()

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


# -- filling ----------------------------------------------------------------------------------
async def fill_log(session: JetStreamSession, ids: int) -> None:
    """A first commit for each id."""

    async def some(filler: int) -> None:
        step = BATCH_COMMITS * FILLERS
        for start in range(filler * BATCH_COMMITS, ids, step):
            numbers = range(start, min(start + BATCH_COMMITS, ids))
            batch = [Append(Address(TYPE, _id(n)), SEALED, 0) for n in numbers]
            if len(batch) == 1:
                await session.log.append(batch[0].address, SEALED, expected=0)
            else:
                answer = await session.log.append_batch(batch)
                assert isinstance(answer, Appended), answer

    await asyncio.gather(*(some(filler) for filler in range(FILLERS)))


async def fill_registry(session: JetStreamSession, ids: int, runners: int) -> list[float]:
    """Each id by itself; how long each took, sorted."""
    taken: list[float] = []

    async def one(runner: int) -> None:
        registrar = Registrar(session, TYPE, f"runner{runner}")
        for n in range(runner, ids, runners):
            began = time.perf_counter()
            await registrar.register(Address(TYPE, _id(n)))
            taken.append(time.perf_counter() - began)
        assert not registrar.owed
        await registrar.close()

    await asyncio.gather(*(one(runner) for runner in range(runners)))
    return sorted(taken)


async def fill_pages(session: JetStreamSession, ids: int) -> None:
    """What is left of ids that came one by one."""
    for start in range(0, ids, PARTS):
        page = [_id(n) for n in range(start, min(start + PARTS, ids))]
        answer = await session.ids.add(TYPE, f"pages-{start}", encode(page), whole=True)
        assert isinstance(answer, Appended), answer


def _id(number: int) -> str:
    return f"customer-{number:08d}"


# -- measuring --------------------------------------------------------------------------------
async def alone(session: JetStreamSession) -> dict[str, float]:
    """One first commit after another: its registration, and its append."""
    registrar = Registrar(session, TYPE, "alone")
    registered: list[float] = []
    appended: list[float] = []
    for n in range(ALONE):
        address = Address(TYPE, f"{ALONE_ID}{n}")
        began = time.perf_counter()
        await registrar.register(address)
        between = time.perf_counter()
        await session.log.append(address, SEALED, expected=0)
        registered.append(between - began)
        appended.append(time.perf_counter() - between)
    await registrar.close()
    return {
        f"{what}_p{p}_ms": _percentile(sorted(times), p)
        for what, times in (("register", registered), ("append", appended))
        for p in (50, 99)
    }


async def measure(options: argparse.Namespace, url: str) -> dict[str, Any]:
    session = await open_session(settings(url), name="benchmark")
    await session.provision(TYPE)
    one = await alone(session)
    _say(f"one after another: {_shown(one)}")
    began = time.perf_counter()
    await fill_log(session, options.ids)
    _say(f"log: {options.ids} entities in {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    if options.pages:
        await fill_pages(session, options.ids)
    else:
        taken = await fill_registry(session, options.ids, options.runners)
        p50, p99 = _percentile(taken, 50), _percentile(taken, 99)
        _say(f"registered one by one by {options.runners}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        del taken
    _say(f"registry: {options.ids} ids in {time.perf_counter() - began:.1f} s")
    cluster = Cluster(session, settings(url))
    publishers = await Publishers.start(url, options.publishers)
    rounds: list[dict[str, float]] = []
    try:
        for number in range(options.rounds):
            rounds.append(await one_round(cluster, publishers, options))
            _say(f"round {number + 1}: {_shown(rounds[-1])}")
    finally:
        await publishers.stop()
        await session.close()
    return {
        "ids": options.ids + ALONE,
        **one,
        "rounds": rounds,
        **{key: statistics.median(r[key] for r in rounds) for key in rounds[0]},
    }


async def one_round(
    cluster: Cluster, publishers: Publishers, options: argparse.Namespace
) -> dict[str, float]:
    """Publishers alone, with a listing, alone again."""
    before = await publishers.over(options.base_s)
    began, count = time.perf_counter(), 0
    await publishers.told()
    async for _ in cluster.ids(Customer):
        count += 1
    seconds = time.perf_counter() - began
    if seconds < LEAST_S:
        await asyncio.sleep(LEAST_S - seconds)
    during = await publishers.told()
    assert count == options.ids + ALONE, count
    after = await publishers.over(options.base_s)
    base_p99 = (before["p99"] + after["p99"]) / 2
    return {
        "listing_s": seconds,
        "base_p50_ms": (before["p50"] + after["p50"]) / 2,
        "base_p99_ms": base_p99,
        "base_rate": (before["rate"] + after["rate"]) / 2,
        "during_p50_ms": during["p50"],
        "during_p99_ms": during["p99"],
        "during_rate": during["rate"],
        "p99_ratio": during["p99"] / base_p99,
    }


def _shown(values: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.2f}" for key, value in values.items())


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


async def main(options: argparse.Namespace) -> None:
    folder = new_folder(options.store, "ids-")
    try:
        async with EmbeddedServer(folder, fsync=False) as server:
            result = await measure(options, server.url)
    finally:
        shutil.rmtree(folder)
    sys.stdout.write(json.dumps({"cores": os.cpu_count(), **result}) + "\n")


if __name__ == "__main__":
    given = parsed()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        if given.publish_to:
            runner.run(publish(given.publish_to, given.publishers))
        else:
            runner.run(main(given))
