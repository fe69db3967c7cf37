"""Flows that wait for somebody, thousands at once: over the end of everything, and in memory.

`PERDURE_FLOWS=10000` is the long form; `PERDURE_SEED=7` chooses the same order again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from functools import partial
from pathlib import Path

import pytest

from perdure import Cluster as Caller
from perdure import Token

from .cluster import cluster
from .desk import Approve, Desk, handed_out
from .desks import (
    DESKS,
    all_of,
    cache_of_the_runner,
    callers,
    end_of_everything,
    memory_mb,
    persist,
    settled,
    suspend,
)
from .flowlog import FlowEntry, steps_twice
from .servers import running

FLOWS = int(os.environ.get("PERDURE_FLOWS", "200"))
SEED = int(os.environ.get("PERDURE_SEED", "0")) or random.randrange(1, 2**31)
LIMIT_S = 120.0 + FLOWS / 10

PART = 500
"""So many are begun at a time."""
SHARING = 5
"""Every so many flows one is a second flow of its entity."""

COMMANDS_MB = 80
"""What the commands of all flows in the test of memory are together, of whatever size each is."""
CACHE_MB = 8
"""`cache_bytes` there, in MiB."""
ALLOWANCE_MB = 24
"""What a runner may take beyond its cache: what is on its way at the same time (messages, commits
and snapshots of 400 kB each in the short form), and memory that Python has and doesn't use. With
the cache that is half of what it would take to keep all flows."""

pytestmark = pytest.mark.timeout(LIMIT_S + 30)


def name_of(n: int) -> str:
    return f"flow-{n}"


def id_of(n: int) -> str:
    return f"desk-{n - 1 if n % SHARING == SHARING - 1 else n}"


async def resume(clients: list[Caller], n: int, token: Token[int]) -> None:
    """With as many values as there are clients, at the same time: each is told that it's done."""
    values = range(10 * n, 10 * n + len(clients))
    resumes = zip(clients, values, strict=True)
    await asyncio.gather(*(persist(partial(one.resume, token, value)) for one, value in resumes))


async def heard(clients: list[Caller], n: int, replies: dict[str, set[str]]) -> None:
    """What everybody gets who asks."""
    for one in clients:
        ref = one.at(Desk, id_of(n))
        reply = await persist(partial(ref.result, Approve, name_of(n)))
        replies.setdefault(name_of(n), set()).add(reply)
    again = clients[0].at(Desk, id_of(n))
    repeat = partial(again.ask, Approve(name_of(n)), key=name_of(n))
    replies[name_of(n)].add(await persist(repeat))


def is_suspended(flow: FlowEntry) -> bool:
    """Waits for its token, which one step has handed out."""
    handed = [entry.record["name"] for entry in flow.all("ran")]
    return flow.waits and handed == ["hand out"] and len(flow.all("opened")) == 1


def judge(flow: FlowEntry, heard: set[str]) -> list[str]:
    """What is wrong with a flow that has ended."""
    values = [entry.record["value"] for entry in flow.all("resolved")]
    n = int(flow.key.removeprefix("flow-"))
    wrong: list[str] = []
    if len(values) != 1 or values[0] not in range(10 * n, 10 * n + 3):
        return [f"{flow.key} was resolved with {values}"]
    reply = f"{values[0]} for 0"
    if flow.outcomes != [{"reply": reply}] or flow.events != ["approved"]:
        wrong.append(f"{flow.key} has {flow.outcomes} and {flow.events}, not {reply!r} once")
    if heard != {reply}:
        wrong.append(f"of {flow.key} was heard {heard}, not {reply!r}")
    steps = [entry.record["name"] for entry in flow.all("ran")]
    if steps != ["hand out", "book"]:
        wrong.append(f"{flow.key} ran {steps}")
    if flow.all("parked"):
        wrong.append(f"{flow.key} was parked")
    return wrong


async def test_they_go_on_by_their_tokens_after_the_end_of_everything(tmp_path: Path) -> None:
    """All runners and the server are killed; each token comes three times with other values."""
    outside = tmp_path / "outside"
    outside.mkdir()
    took: dict[str, float] = {}
    began = time.monotonic()

    def lap(what: str) -> None:
        took[what] = round(time.monotonic() - began - sum(took.values()), 1)

    async with (
        asyncio.timeout(LIMIT_S),
        running(tmp_path, 1, fsync=True) as servers,
        cluster(tmp_path, servers, seed=SEED, runners=2, hosts=DESKS) as runners,
        callers(servers.url, 3) as clients,
    ):
        lap("start")
        numbers = range(FLOWS)
        few = [memory_mb(runner) for runner in runners.alive]
        for begin in range(0, FLOWS, PART):
            part = [(id_of(n), Approve(name_of(n))) for n in numbers[begin : begin + PART]]
            await suspend(clients, outside, part)
        many = [memory_mb(runner) for runner in runners.alive]
        lap("suspend")
        before = await settled(runners)
        assert [key for key, flow in before.items() if not is_suspended(flow)] == []
        assert before.keys() == handed_out(outside).keys() == {name_of(n) for n in numbers}
        lap("look")
        await end_of_everything(runners)
        lap("end of everything")
        tokens, order = handed_out(outside), list(numbers)
        random.Random(SEED).shuffle(order)
        await all_of(partial(resume, clients, n, tokens[name_of(n)]) for n in order)
        lap("resume")
        replies: dict[str, set[str]] = {}
        await all_of(partial(heard, clients, n, replies) for n in numbers)
        lap("ask")
        after = await settled(runners)
    report = {"seed": SEED, "flows": len(after), "seconds": took, "mb": [few, many]}
    print(json.dumps(report))
    assert after.keys() == before.keys()
    wrong = [text for key, flow in after.items() for text in judge(flow, replies[key])]
    assert wrong == [], f"seed {SEED}: {len(wrong)} wrong, of them {wrong[:10]}"
    assert steps_twice(after) == []


async def test_the_memory_of_a_runner_is_bounded_however_many_are_suspended(
    tmp_path: Path,
) -> None:
    """What it takes is its cache and a stated allowance, for less than there is to be kept."""
    outside = tmp_path / "outside"
    outside.mkdir()
    text, few = "x" * (COMMANDS_MB * 10**6 // FLOWS), FLOWS // 10
    async with (
        asyncio.timeout(LIMIT_S),
        running(tmp_path, 1, fsync=False) as servers,
        cluster(
            tmp_path, servers, seed=SEED, runners=1, hosts=DESKS, cache_bytes=CACHE_MB * 2**20
        ) as runners,
        callers(servers.url, 1) as [client],
    ):
        [runner] = runners.alive
        works = [(id_of(n), Approve(name_of(n), text)) for n in range(FLOWS)]
        await suspend([client], outside, works[:few])
        with_few = memory_mb(runner)
        for begin in range(few, FLOWS, few):
            await suspend([client], outside, works[begin : begin + few])
        with_many = memory_mb(runner)
        cache = await cache_of_the_runner(servers.url)
        found = await settled(runners)
    report = {
        "flows": [few, FLOWS],
        "bytes_each": len(text),
        "mb": [with_few, with_many],
        "cached": cache.cached,
        "evicted": cache.evicted,
    }
    print(json.dumps(report))
    assert len(found) == FLOWS
    assert [key for key, flow in found.items() if not is_suspended(flow)] == []
    assert cache.cached <= cache.cached_capacity == CACHE_MB * 2**20
    assert cache.evicted > 0
    assert with_many - with_few <= CACHE_MB + ALLOWANCE_MB
