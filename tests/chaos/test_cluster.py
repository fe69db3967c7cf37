"""Several runners under load: killed, frozen, drained, added; and a stream's leader killed.

Short forms run with all other tests and hold what must never break: safety. The long forms, whose
figures are promises, are asked for by the environment:

- `PERDURE_OPERATIONS=100000` calls against a nemesis that freezes for 10 s (`-k at_random`);
- `PERDURE_KILLS=20` kills of a runner, and unless they are given, too, `PERDURE_FREEZES=5` of 10 s
  and `PERDURE_DRAINS=20` joins and drains (`-k one_of_three`; 0 leaves a kind out);
- `PERDURE_LEADERS=5` kills of a stream's leader, a fourth of the kills by default (`-k leader`);
- `PERDURE_LATENCY=1` asserts the limits in time, which are only reported otherwise;
- `PERDURE_SEED=7` chooses the same victims again; else each run has its own seed, and prints it.

What callers felt is printed; `pytest -s` shows it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from .cluster import SUBJECTS, TYPE, Cluster, History, cluster
from .linear import Call
from .nemesis import Nemesis
from .processes import Runner
from .raw import STREAM, RawPublishers
from .report import Felt, Incident, commands, felt, lines, longest_gap_ms, within
from .servers import running, until
from .tap import Attempt, tapped

OPERATIONS = int(os.environ.get("PERDURE_OPERATIONS", "1000"))
KILLS = int(os.environ.get("PERDURE_KILLS", "1"))
FREEZES = int(os.environ.get("PERDURE_FREEZES", max(1, KILLS // 4)))
DRAINS = int(os.environ.get("PERDURE_DRAINS", max(1, KILLS)))
LEADERS = int(os.environ.get("PERDURE_LEADERS", max(1, KILLS // 4)))
LATENCY = os.environ.get("PERDURE_LATENCY", "") not in ("", "0")
SEED = int(os.environ.get("PERDURE_SEED", "0")) or random.randrange(1, 2**31)

LONG = OPERATIONS >= 50_000
REAL = LONG or LATENCY or FREEZES > 1
FREEZE_S = 10.0 if REAL else 2.0
SILENT: dict[str, Any] = {} if REAL else {"frozen_after": 1.0}
"""A frozen runner is replaced sooner in the short forms than by default."""
EVERY_S = (1.0, 5.0) if LONG else (0.2, 0.8)
EVENTS = 100 if LONG else 6
"""So many things the nemesis does at least."""
SPREAD_S = 30.0 if LATENCY else 2.0
"""How long the runners may take to share the shards. Where no limit counts, they needn't."""
CALM_S = 2.0 if LATENCY else 0.3
"""What the time after an incident is compared with: the calm before it."""
WATCHED_S = 2.0 if LATENCY else 0.5
"""For how long callers are watched after an incident, at least."""
REPLICAS_S = 60.0
"""How long a server that came back may take to catch up."""
LIMIT_S = 120.0 + OPERATIONS / 40 + 40 * (KILLS + FREEZES + 2 * DRAINS + LEADERS)
"""How long a test may take at the very most."""

BYSTANDERS_MS = 250.0
"""What an ask to a shard of others may take while a runner is killed: no client repeats yet, so
none noticed."""

pytestmark = pytest.mark.timeout(LIMIT_S + 30)


def now() -> int:
    return time.monotonic_ns()


def verdict(history: History) -> None:
    """Nothing is wrong: else how much of what, and the first of it."""
    wrong = history.violations()
    kinds = dict(Counter(text.partition(":")[0] for text in wrong))
    assert wrong == [], f"seed {SEED}: {len(wrong)} violations: {kinds}: {wrong[:20]}"


async def test_runners_that_come_and_go_at_random(tmp_path: Path) -> None:
    """Kills, freezes, drains and joins under load: linearizable, whatever was recorded."""
    began = now()
    async with (
        asyncio.timeout(LIMIT_S),
        running(tmp_path, 1, fsync=True) as servers,
        cluster(tmp_path, servers, seed=SEED, spread_s=SPREAD_S, **SILENT) as runners,
    ):
        await runners.load(2 if LONG else 1, rate=200.0, give_up=0.1)
        nemesis, stop = Nemesis(runners, every_s=EVERY_S, freeze_s=FREEZE_S), asyncio.Event()
        work = asyncio.create_task(nemesis.run(stop))
        while (  # noqa: ASYNC110 (counters)
            runners.done < OPERATIONS or len(nemesis.events) < EVENTS
        ) and not work.done():
            await asyncio.sleep(0.1)
        stop.set()
        await work
        history = await runners.finish()
    results = Counter(f"{call.way} {call.result}" for call in history.calls)
    report = {
        "seed": SEED,
        "seconds": round((now() - began) / 1e9, 1),
        "shared": runners.shared,
        "nemesis": {**nemesis.counts, "deciding": nemesis.deciding},
        "calls": dict(results),
        "commits": len(history.messages),
        "errors": dict(Counter(call.error for call in history.calls if call.error)),
    }
    print(json.dumps(report))
    verdict(history)
    for number in random.Random(SEED).sample(range(len(history.messages)), 3):
        assert history.violations(without=number), f"nobody missed commit {number}; seed {SEED}"
    assert sum(results.values()) >= OPERATIONS
    assert results["ask unknown"] > 0
    if LONG:
        assert min(nemesis.counts.get(kind, 0) for kind in ("kill", "freeze", "drain", "add")) > 5


@dataclass
class Nap:
    """A runner that was frozen, and what was sent to the log since then by anybody."""

    runner: Runner
    asleep: datetime
    awake: datetime
    attempts: list[Attempt]


class Watched:
    """A cluster under a load that never gives up, and what is done to its runners."""

    def __init__(self, runners: Cluster) -> None:
        self.runners = runners
        self.incidents: list[Incident] = []
        self.naps: list[Nap] = []

    async def kill(self) -> None:
        """kill -9 of one; afterwards another one takes its place."""
        victim, shards, at = await self._victim()
        await victim.kill()
        await self._over("kill", victim, at, shards)
        await self.runners.add()

    async def freeze(self) -> None:
        """One sleeps for a while, as a virtual machine does that is moved, and wakes up with
        something to append."""
        victim, shards, at = await self._victim()
        subject = SUBJECTS.log(TYPE, "*")
        async with tapped(self.runners.servers.url, subject) as attempts:
            asleep = datetime.now(UTC)
            assert await victim.freeze_deciding(), "it had nothing to decide"
            await asyncio.sleep(FREEZE_S)
            await self.runners.replaced(victim)
            self.naps.append(Nap(victim, asleep, datetime.now(UTC), attempts))
            victim.thaw()
            await self._over("freeze", victim, at, shards)

    async def join_and_drain(self) -> None:
        """A fourth one joins, then one leaves, as in a rolling update."""
        await self._calm()
        at = now()
        joined = await self.runners.add()
        await self._over("join", joined, at, frozenset(range(self.runners.shards)))
        victim, shards, at = await self._victim()
        assert await victim.drain() == 0
        await self._over("drain", victim, at, shards)

    async def _calm(self) -> None:
        """All is well, and was for as long as it is compared with."""
        await self.runners.spread()
        await self.runners.calm()
        await asyncio.sleep(CALM_S)

    async def _victim(self) -> tuple[Runner, frozenset[int], int]:
        await self._calm()
        victim = await self.runners.victim()
        return victim, await self.runners.owned(victim), now()

    async def _over(self, kind: str, runner: Runner, at: int, shards: frozenset[int]) -> None:
        """Watch until all is well again: that was one incident."""
        await asyncio.sleep(WATCHED_S)
        await self.runners.calm()
        self.incidents.append(Incident(kind, runner.name, at, now(), shards))


async def test_one_of_three_is_killed_frozen_or_drained(tmp_path: Path) -> None:
    """What callers felt; nothing is lost, and who wakes up spoils nothing."""
    async with (
        asyncio.timeout(LIMIT_S),
        running(tmp_path, 1, fsync=True) as servers,
        cluster(tmp_path, servers, seed=SEED, spread_s=SPREAD_S, **SILENT) as runners,
    ):
        await runners.load(2 if LATENCY else 1, rate=120.0, keyless=0.0)
        watched = Watched(runners)
        for _ in range(KILLS):
            await watched.kill()
        for _ in range(FREEZES):
            await watched.freeze()
        for _ in range(DRAINS):
            await watched.join_and_drain()
        history = await runners.finish()
    made = commands(history.calls)
    found = [felt(i, made, history.shard, int(CALM_S * 1e9)) for i in watched.incidents]
    print(f"seed {SEED}, shared {runners.shared}, {len(history.calls)} calls\n{lines(found)}")
    woken = [woke_up(history, nap) for nap in watched.naps]
    print(f"of who woke up (refused, late) appends: {woken}")
    verdict(history)
    for refused, late in woken:
        assert late == [], "who woke up went on where others had gone on"
        assert refused > 0, "who woke up didn't try to append what it had decided"
    if LATENCY:
        assert runners.shared
        _assert_limits(found)


def _assert_limits(found: list[Felt]) -> None:
    """The promises in time, in milliseconds."""
    kills = [f for f in found if f.kind == "kill"]
    assert within([f.worst_ask_ms for f in kills], 2000) == KILLS
    assert within([f.worst_ask_ms for f in kills], 1000) >= KILLS * 19 // 20
    assert within([f.worst_elsewhere_ms for f in kills], BYSTANDERS_MS) >= KILLS * 19 // 20
    assert [f.errors_elsewhere for f in kills if f.errors_elsewhere] == []
    assert within([f.worst_ask_ms for f in found if f.kind == "freeze"], 5000) == FREEZES
    for kind in ("join", "drain"):
        handed = [f for f in found if f.kind == kind]
        assert within([f.worst_command_ms for f in handed], 1000) == DRAINS
        assert within([f.worst_command_ms for f in handed], 500) >= DRAINS * 19 // 20
        assert [f.errors for f in handed if f.errors] == []


def woke_up(history: History, nap: Nap) -> tuple[int, list[str]]:
    """What a runner sent to the log after its sleep: how many commits the log refused before it
    had a new term of their shard; and those that the log took before it let the shard go, although
    another runner had gone on with the entity meanwhile.

    Between both it may have the shard again: asks are heard before there is a term. It then begins
    with what the log says, and that each commit follows the one before is the oracle's to say.
    """
    again = _first(nap.runner.terms(), nap.awake)
    let_go = _first(nap.runner.losses(), nap.awake)
    stored = {json.loads(message.data)["id"]: message for message in history.messages}
    others = {
        message.id
        for message in stored.values()
        if nap.asleep <= message.stored < nap.awake
        and json.loads(message.data)["runner"] != nap.runner.id
    }
    refused, late = 0, list[str]()
    for attempt in nap.attempts:
        if attempt.runner != nap.runner.id or attempt.heard < nap.awake:
            continue
        shard = history.shard(attempt.entity)
        if attempt.commit not in stored:
            refused += shard not in again or attempt.heard < again[shard]
        elif attempt.entity in others and (shard not in let_go or attempt.heard < let_go[shard]):
            late.append(f"{attempt.entity} {attempt.heard - nap.awake} after it woke up")
    return refused, late


def _first(moments: list[tuple[datetime, int]], since: datetime) -> dict[int, datetime]:
    """The first moment of each shard since then."""
    found: dict[int, datetime] = {}
    for when, shard in moments:
        if when >= since:
            found.setdefault(shard, when)
    return found


async def test_kill_9_of_a_streams_leader(tmp_path: Path) -> None:
    """Three replicas: nothing acknowledged is lost or doubled; the raw client has its gap too."""
    log, windows = SUBJECTS.log_stream(TYPE), list[tuple[int, int, list[str]]]()
    async with (
        asyncio.timeout(LIMIT_S),
        running(tmp_path, 3, fsync=False) as servers,
        cluster(tmp_path, servers, seed=SEED, runners=2, replicas=3, shards=4) as runners,
        RawPublishers(servers.urls, 3) as raw,
    ):
        await runners.load(1, rate=120.0, keyless=0.0, clients=32)
        for _ in range(LEADERS):
            await runners.calm()
            leader = await servers.leader(log)
            assert leader is not None
            await servers.lead(STREAM, leader)
            await asyncio.sleep(CALM_S)
            led = sorted(s for s, leads in (await servers.leaders()).items() if leads == leader)
            at = now()
            await servers.server(leader).kill()
            await runners.progress(50)
            await runners.calm()
            windows.append((at, now(), led))
            if len(windows) < LEADERS:
                await servers.server(leader).start()
                await until(servers.current, REPLICAS_S, "all replicas")
        history = await runners.finish()
    asked = [call.end for call in history.calls if call.way == "ask" and call.result == "ok"]
    for begin, end, led in windows:
        ours, theirs = (longest_gap_ms(moments, begin, end) for moments in (asked, raw.acks))
        print(
            f"the leader of {', '.join(led)}: no ask answered for {ours:.0f} ms, the worst took "
            f"{_worst_between(history.calls, begin, end):.0f} ms; raw client without an "
            f"acknowledgement for {theirs:.0f} ms"
        )
    print(f"seed {SEED}, {len(history.calls)} calls, {len(raw.acks)} raw acknowledgements")
    verdict(history)


def _worst_between(calls: list[Call], begin: int, end: int) -> float:
    made = [c for c in commands(calls) if c.way == "ask" and c.begin < end and c.end > begin]
    return max(command.took_ms for command in made)
