"""Timers of flows that end all the time, while runners are killed: never early, each one once.

`PERDURE_TIMERS=10000` is the long form, over a minute with ten kills of a runner.

How late one is goes by the server's clock alone: from its due time, which the log has, to the time
at which the server stored the commit that says that it fired.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from perdure import Cluster as Caller

from .cluster import Cluster, cluster
from .desk import Desk, Nap
from .desks import DESKS, all_of, callers, ended, persist, settled
from .flowlog import FlowEntry
from .servers import running

TIMERS = int(os.environ.get("PERDURE_TIMERS", "300"))
KILLS = max(1, TIMERS // 1000)
EVERY_S = 6.0
"""From one kill of a runner to the next."""
SPAN_S = KILLS * EVERY_S
"""Over which the timers end."""
LEAD_S = 1.0 + TIMERS / 200
"""Before the first one ends, for all to be set."""
SHARING = 4
"""So many flows sleep at each entity."""
SEED = int(os.environ.get("PERDURE_SEED", "0")) or random.randrange(1, 2**31)
REDELIVERED_S = 40.0
"""After the last due time: a firing that a killed runner took along comes again after 30 s."""
LIMIT_S = 120.0 + LEAD_S + 2 * SPAN_S + REDELIVERED_S

pytestmark = pytest.mark.timeout(LIMIT_S + 30)


@dataclass(frozen=True)
class Fault:
    """From the kill of a runner until its shards are others'."""

    begin: datetime
    end: datetime


def now() -> datetime:
    return datetime.now(UTC)


async def set_all(clients: Sequence[Caller], end: float) -> None:
    """Tell all of them; the first one is due at `end`, the last one SPAN_S later."""

    async def one(n: int) -> None:
        due = end + n * SPAN_S / TIMERS
        nap = Nap(max(0.0, due - time.monotonic()))
        ref = clients[n % len(clients)].at(Desk, f"desk-{n // SHARING}")
        await persist(partial(ref.tell, nap, key=f"nap-{n}"))

    order = list(range(TIMERS))
    random.Random(SEED).shuffle(order)
    await all_of(partial(one, n) for n in order)


async def kill_them(runners: Cluster, end: float) -> list[Fault]:
    """kill -9 of a runner after another, once timers end; each is replaced by a new one."""
    faults: list[Fault] = []
    for n in range(KILLS):
        at = end + (n + 0.3) * EVERY_S
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        victim, begin = await runners.victim(), now()
        await victim.kill()
        await runners.taken_over(victim)
        faults.append(Fault(begin, now()))
        await runners.add()
    return faults


def judge(flow: FlowEntry) -> list[str]:
    """What is wrong with one that has ended, or hasn't."""
    kinds = [entry.kind for entry in flow.entries]
    if kinds.count("armed") != 1 or kinds.count("fired") != 1 or kinds.count("parked"):
        return [f"{flow.key}: {kinds}"]
    wrong: list[str] = []
    [fired] = flow.all("fired")
    if fired.told is None or not flow.due <= fired.told <= fired.stored:
        wrong.append(f"{flow.key}: due {flow.due}, told {fired.told}, fired {fired.stored}")
    if flow.events != ["woken"] or len(flow.outcomes) != 1 or "reply" not in flow.outcomes[0]:
        wrong.append(f"{flow.key}: has {flow.events} and {flow.outcomes}")
    return wrong


def late_ms(flow: FlowEntry) -> float:
    [fired] = flow.all("fired")
    return (fired.stored - flow.due).total_seconds() * 1000


def told_late_ms(flow: FlowEntry) -> float:
    """The part of it until the entity was told, by the server and by whoever relays."""
    [fired] = flow.all("fired")
    assert fired.told is not None
    return (fired.told - flow.due).total_seconds() * 1000


def meets(flow: FlowEntry, faults: list[Fault]) -> bool:
    """Whether a fault was active at any time from its due time until it had fired."""
    [fired] = flow.all("fired")
    return any(flow.due <= fault.end and fired.stored >= fault.begin for fault in faults)


def lateness(flows: list[FlowEntry]) -> dict[str, tuple[float, float]]:
    """How late timers were, in milliseconds: until their entity was told, and until it had done
    what was to be done."""
    most, parts = len(flows) - 1, (told_late_ms, late_ms)
    told, done = (sorted(late(flow) for flow in flows) for late in parts)
    places = {"p50": round(most * 0.5), "p99": round(most * 0.99), "worst": most}
    return {name: (round(told[n], 1), round(done[n], 1)) for name, n in places.items()}


async def test_timers_that_end_while_runners_are_killed(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(LIMIT_S),
        running(tmp_path, 1, fsync=True) as servers,
        cluster(tmp_path, servers, seed=SEED, runners=3, hosts=DESKS) as runners,
        callers(servers.url, 2) as clients,
    ):
        end = time.monotonic() + LEAD_S
        await set_all(clients, end)
        set_s = round(LEAD_S - (end - time.monotonic()), 1)
        faults = await kill_them(runners, end)
        await ended(runners, TIMERS, max(0.0, end + SPAN_S - time.monotonic()) + REDELIVERED_S)
        flows = await settled(runners)
    assert flows.keys() == {f"nap-{n}" for n in range(TIMERS)}
    wrong = [text for flow in flows.values() for text in judge(flow)]
    assert wrong == [], f"seed {SEED}: {len(wrong)} wrong, of them {wrong[:10]}"
    calm = [flow for flow in flows.values() if not meets(flow, faults)]
    report = {
        "seed": SEED,
        "timers": TIMERS,
        "set_s": set_s,
        "kills": len(faults),
        "faults_s": [round((f.end - f.begin).total_seconds(), 2) for f in faults],
        "late_ms": lateness(list(flows.values())),
        "without_a_fault": {"timers": len(calm), "late_ms": lateness(calm)},
    }
    print(json.dumps(report))
    assert len(faults) == KILLS
    assert len(calm) >= TIMERS // 10, "mostly faults: nothing was measured"
