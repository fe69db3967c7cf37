"""A runner that is killed between the commit of a resume and the step behind it.

The step kills its own process before it does anything, the first time: what the resume says is in
the log by then, as the turn stores that before it begins the step. From there on the flow is
alone: the test's client is gone, and whether it has ended is read from the log.

`PERDURE_RESUMES=100` is the long form.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from pathlib import Path

import pytest
from nats.aio.client import Client

from perdure import Token

from .cluster import NAMESPACE, SUBJECTS, Cluster, cluster
from .desk import Approve, handed_out
from .desks import DESKS, callers, settled, suspend
from .flowlog import FlowEntry, flows
from .oracle import read
from .processes import Runner
from .servers import running, until

RESUMES = int(os.environ.get("PERDURE_RESUMES", "5"))
SEED = int(os.environ.get("PERDURE_SEED", "0")) or random.randrange(1, 2**31)
GOES_ON_S = 30.0
"""How long a flow may take to end after its runner was killed."""
KILLED_S = 20.0
LIMIT_S = 120.0 + RESUMES * 20

pytestmark = pytest.mark.timeout(LIMIT_S + 30)


async def send_once(url: str, id: str, token: Token[int], value: int) -> None:
    """One message, as any program may send it; stored when this returns, and never sent again."""
    client = Client()
    await client.connect(url)
    try:
        data = json.dumps({"type": "$resume", "token": str(token), "value": value}).encode()
        stored = await client.request(SUBJECTS.to(DESKS.entity, id), data, timeout=10)
    finally:
        await client.close()
    assert "error" not in json.loads(stored.data), stored.data


async def ended_by_its_own(runners: Cluster) -> Runner:
    """The runner that isn't there any more."""

    async def one() -> bool:
        return len(runners.alive) < 2

    await until(one, KILLED_S, "the end of a runner")
    [dead] = [runner for runner in runners.runners[-2:] if not runner.alive]
    return dead


async def one_goes_on(runners: Cluster, n: int, token: Token[int]) -> tuple[str, float]:
    """The id of the runner that was killed, and how long the flow took from then on, in s."""
    url, key = runners.servers.url, f"flow-{n}"
    await send_once(url, f"desk-{n}", token, n)
    dead = await ended_by_its_own(runners)
    assert dead.process.returncode == -signal.SIGKILL
    runners.runners.remove(dead)

    async def has_ended() -> bool:
        return bool(flows(await read(url, NAMESPACE, DESKS.entity))[key].outcomes)

    ending = until(has_ended, GOES_ON_S, f"the end of {key}")
    took, _ = await asyncio.gather(ending, runners.add())
    return dead.id, took


def judge(flow: FlowEntry, n: int, dead: str) -> list[str]:
    """What is wrong with one: the dead runner stored the resume, another one did the rest."""
    kinds = [entry.kind for entry in flow.entries if entry.kind != "began"]
    expected = ["opened", "ran", "waits", "resolved", "ran"]
    if kinds != expected or flow.outcomes != [{"reply": f"{n} for 0"}]:
        return [f"{flow.key}: {kinds}, {flow.outcomes}"]
    [resolved], [_, booked] = flow.all("resolved"), flow.all("ran")
    wrong: list[str] = []
    if resolved.record["value"] != n or resolved.runner != dead or booked.runner == dead:
        wrong.append(f"{flow.key}: {resolved} by {dead}, then {booked}")
    if flow.events != ["approved"]:
        wrong.append(f"{flow.key}: {flow.events}")
    return wrong


async def test_the_flow_goes_on_by_itself(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    killed: list[tuple[str, float]] = []
    async with (
        asyncio.timeout(LIMIT_S),
        running(tmp_path, 1, fsync=True) as servers,
        cluster(tmp_path, servers, seed=SEED, runners=2, hosts=DESKS) as runners,
    ):
        async with callers(servers.url, 1) as clients:
            commands = [(f"desk-{n}", Approve(f"flow-{n}", fatal=True)) for n in range(RESUMES)]
            await suspend(clients, outside, commands)
        tokens = handed_out(outside)
        for n in range(RESUMES):
            killed.append(await one_goes_on(runners, n, tokens[f"flow-{n}"]))
        found = await settled(runners)
    took = sorted(seconds for _, seconds in killed)
    report = {
        "resumes": RESUMES,
        "ended": sum(bool(flow.outcomes) for flow in found.values()),
        "seconds_after_the_kill": {"median": took[len(took) // 2], "worst": took[-1]},
    }
    print(json.dumps(report))
    assert found.keys() == {f"flow-{n}" for n in range(RESUMES)}
    assert len(list(outside.glob("killed-*"))) == RESUMES
    wrong = [
        text for n, (dead, _) in enumerate(killed) for text in judge(found[f"flow-{n}"], n, dead)
    ]
    assert wrong == []
