"""A singleton on real runners in processes of their own: killed, frozen, told to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.deploy.tied import tie

from ...support.server import until

ROOT = Path(__file__).resolve().parents[3]


class Child:
    """One process, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self._listens = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))

    def terms(self, what: str) -> list[int]:
        return [said[what] for said in self.said if what in said]

    @property
    def works(self) -> bool:
        return len(self.terms("begins")) > len(self.terms("ends"))

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal that ends it, and hear its last words."""
        self.process.send_signal(number)
        code = await self.process.wait()
        await self._listens
        return code


@asynccontextmanager
async def child(server: EmbeddedServer, namespace: str) -> AsyncGenerator[Child]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    module = "tests.unit.durable.singleton_child"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, server.url, namespace),
        cwd=ROOT,
        env={**os.environ, "PYTHONSAFEPATH": "", "PYTHONPATH": path},
        stdin=DEVNULL,
        stdout=PIPE,
        start_new_session=True,
        preexec_fn=tie(signal.SIGKILL),
    )
    made = Child(process)
    try:
        yield made
    finally:
        if process.returncode is None:
            await made.end(signal.SIGKILL)


def only(children: list[Child]) -> Child:
    """The one at work, of which there is no second."""
    (found,) = [one for one in children if one.works]
    return found


@pytest.mark.timeout(120)
async def test_another_goes_on_when_its_runner_is_killed_frozen_or_told_to_end(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with AsyncExitStack() as stack:
        alive = [await stack.enter_async_context(child(nats_server, namespace)) for _ in range(4)]
        await until(lambda: all(one.terms("runner") for one in alive), "their start")
        await until(lambda: sum(one.works for one in alive) == 1, "the first run")
        loop = asyncio.get_running_loop()

        killed = only(alive)
        alive.remove(killed)
        began = loop.time()
        await killed.end(signal.SIGKILL)
        await until(lambda: sum(one.works for one in alive) == 1, "a run after the kill")
        print(f"after kill -9 it ran again within {loop.time() - began:.2f} s")
        second = only(alive)
        assert second.terms("begins")[-1] > killed.terms("begins")[-1]

        alive.remove(second)
        second.process.send_signal(signal.SIGSTOP)
        await until(lambda: sum(one.works for one in alive) == 1, "a run after the freeze")
        third = only(alive)
        assert third.terms("begins")[-1] > second.terms("begins")[-1]
        assert second.works  # it can't know
        second.process.send_signal(signal.SIGCONT)
        await until(lambda: second.terms("begins")[0] in second.terms("ends"), "its end")

        alive.append(second)
        await until(lambda: sum(one.works for one in alive) == 1, "one run")
        leaves = only(alive)
        alive.remove(leaves)
        assert await leaves.end(signal.SIGTERM) == 0
        assert leaves.terms("ends") == leaves.terms("begins")
        await until(lambda: sum(one.works for one in alive) == 1, "a run after the drain")
        terms = [term for one in [killed, *alive, leaves] for term in one.terms("begins")]
        assert len(set(terms)) == len(terms)
        assert only(alive).terms("begins")[-1] == max(terms)
