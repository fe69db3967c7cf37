"""kill -9 of the runner and of the server under load: nothing lost, nothing doubled, in order.

`PERDURE_KILLS` and `PERDURE_OPERATIONS` make it longer; `make chaos` runs the long form.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nats
import pytest

from perdure import Cluster, Settings, connect
from perdure.deploy.server import EmbeddedServer

from .journal import Declined, Journal, Write
from .load import Caller, Record, plain
from .oracle import judge, read

KILLS = int(os.environ.get("PERDURE_KILLS", "3"))
OPERATIONS = int(os.environ.get("PERDURE_OPERATIONS", "6000"))
CALLERS = 160
ENTITIES = 100
NAMESPACE = "chaos"
LIMIT_S = 1500.0


class Host:
    """The runner's process."""

    def __init__(self, url: str, appends: str, actions: Path) -> None:
        self._arguments = (url, NAMESPACE, appends, str(actions))
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.host", *self._arguments),
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONSAFEPATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    async def __aenter__(self) -> Host:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.kill()

    async def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await self.process.wait()


async def nemesis(server: EmbeddedServer, host: Host, record: Record, seen: list[int]) -> None:
    """Kill runner and server in turn, each with at least 100 commands in flight."""
    for _ in range(KILLS):
        await progress(record)
        seen.append(record.inflight)
        await host.kill()
        await host.start()
        await progress(record)
        seen.append(record.inflight)
        await server.restart(kill=True)


async def progress(record: Record) -> None:
    """Until things go well again: some hundred commands more, and enough in flight."""
    target = record.done + max(100, OPERATIONS // (KILLS * 4))
    while record.done < target or record.inflight < 100:  # noqa: ASYNC110 (a counter)
        await asyncio.sleep(0.01)


async def drained(url: str) -> None:
    """Until every accepted tell is settled: the command stream is empty."""
    module: Any = nats
    client = await module.connect(url)
    try:
        js = client.jetstream()
        while (  # noqa: ASYNC110 (the server counts)
            await js.stream_info(f"{NAMESPACE.upper()}_CMD_journal")
        ).state.messages:
            await asyncio.sleep(0.1)
    finally:
        await client.close()


async def result(cluster: Cluster, id: str, key: str) -> dict[str, Any]:
    """What came of a tell."""
    try:
        return plain(await cluster.at(Journal, id).result(Write, key, timeout=20))
    except Declined as failure:
        return plain(failure)


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("appends", ["auto", "batch"])
async def test_kill_9_of_runner_and_server_under_load(tmp_path: Path, appends: str) -> None:
    actions, record, seen = tmp_path / "actions", Record(), list[int]()
    async with (
        EmbeddedServer(tmp_path / "store", fsync=True) as server,
        Host(server.url, appends, actions) as host,
    ):
        settings = Settings(url=server.url, namespace=NAMESPACE, ask_timeout=20)
        async with connect(settings=settings) as cluster:
            began = time.monotonic()
            callers = [Caller(n, cluster, record, ENTITIES) for n in range(CALLERS)]
            per_caller = -(-OPERATIONS // CALLERS)
            work = asyncio.gather(*(c.run(per_caller) for c in callers))
            chaos = asyncio.create_task(nemesis(server, host, record, seen))
            await asyncio.wait_for(work, LIMIT_S)
            took = time.monotonic() - began
            if not chaos.done():
                pytest.fail(f"the load ended before the kills: {len(seen)} of {2 * KILLS}")
            await chaos
            await asyncio.wait_for(drained(server.url), 120)
            for id, key in record.accepted:
                outcome = await result(cluster, id, key)
                assert record.answers.setdefault(key, outcome) == outcome
            verdict = judge(await read(server.url, NAMESPACE, "journal"))
            states = {id: await cluster.at(Journal, id).state() for id in verdict.entities}
        assert await host.kill(signal.SIGTERM) == 0
    counts = Counter(actions.read_text().split("\n"))
    report = {
        "appends": appends,
        "operations": record.done,
        "seconds": round(took, 1),
        "kills": len(seen),
        "least_in_flight": min(seen),
        "errors": dict(record.errors),
        "actions": {k: v for k, v in sorted(counts.items()) if k},
    }
    print(json.dumps(report))
    assert verdict.wrong == []
    assert record.wrong == []
    assert record.done >= OPERATIONS
    assert set(verdict.outcomes) == set(record.answers), "lost, or out of nowhere"
    assert {k: v for k, v in record.answers.items() if verdict.outcomes[k] != v} == {}
    for id, entry in verdict.entities.items():
        assert (states[id].n, states[id].digest) == (entry.n, entry.digest)
    positions = {name: n for e in verdict.entities.values() for n, name in enumerate(e.names)}
    for keys in record.order.values():
        took_effect = [positions[key] for key in keys]
        assert took_effect == sorted(took_effect), "one client's commands out of order"
    assert min(seen) >= 100
    assert counts["append.adopted"] + counts["append.unknown"] > 0, "no lost acknowledgement"
    assert counts["ledger.hit"] > 0, "no duplicate delivery"
    assert counts["append.batch"] > 0 or appends == "auto", "no batch"
    assert counts["activation.failed"] == 0
