"""Everything that a message can have wrong, on a real server: one tagged error each, no harm done.

All cases meet one runner, in a process of its own; at the end it is still the same one. The last
test sends each case fifty times a second and measures a neighbour meanwhile.
"""

from __future__ import annotations

import ast
import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from . import client as client_module
from .cases import CASES, Case
from .client import escape
from .harness import NAMESPACE, TROUBLE, World, program, world

in_one_loop = pytest.mark.asyncio(loop_scope="module")

ADD = {"type": "add", "n": 1}
SLICE_S = float(os.environ.get("PERDURE_HOSTILE_SLICE", "0.15"))
"""How long a neighbour is measured, alone and under each case, in seconds."""
PACE_S = 0.02
"""Between two bad messages, in seconds."""
SLOWER = 2.0
"""What a neighbour may become slower by, at most."""
TRIES = 4
"""A machine that others use, too, may be slow by itself: a case has failed if all tries did."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One runner for all cases."""
    async with world(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.fixture(scope="module")
def runner() -> list[str]:
    """The runners that were seen."""
    return []


def test_the_program_imports_nothing_of_perdure() -> None:
    tree = ast.parse(Path(str(client_module.__file__)).read_text())
    names = {
        (name.name if isinstance(node, ast.Import) else str(node.module)).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert names - sys.stdlib_module_names == {"nats"}


@in_one_loop
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_bad_message(one: World, runner: list[str], case: Case) -> None:
    client = one.client
    runner.append(await one.ready())
    log, dead = await client.count("LOG"), await client.count("DEAD")
    id = f"of {case.name}"
    answer = await client.request(client.ask_subject(escape(id)), case.body, **case.headers)
    assert set(answer) == {"error"}, "an error, and no recorded one"
    error = answer["error"]
    assert (error["type"], error["may_have_taken_effect"]) == (case.error, case.may)
    assert error["address"] == f"victim/{id}"
    assert len(error["cause"]) <= 1_000
    assert await client.count("LOG") == log, "nothing was written"

    body = case.body.replace(b'[1, "ask"', b'[1, "tell"', 1)
    ack = await client.tell(id, body, **case.headers)
    assert ack["stream"] == client.stream("CMD")
    (letter,) = await client.dead(after=dead)
    assert letter["dead"]["reason"] == case.reason
    assert letter["dead"]["error"]["type"] == case.error
    assert letter["dead"]["error"]["may_have_taken_effect"] is False

    assert (await client.ask(id, ADD))["reply"] == 1, "its entity goes on"
    assert await client.count("LOG") == log + 2


@in_one_loop
async def test_one_runner_met_them_all(one: World, runner: list[str]) -> None:
    assert len(runner) == len(CASES)
    assert set(runner) == {await one.ready()}
    assert one.host.starts == 1
    assert one.host.alive
    assert one.host.actions(*TROUBLE) == []
    begun = one.host.actions("term.begin")
    assert len(begun) == 4, "no term had to be taken anew"


class Neighbour:
    """The neighbour's process, and what it noted."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._notes: list[tuple[float, float]] = []
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            began, took = map(float, line.split())
            self._notes.append((began, took))

    async def begins(self) -> None:
        """Wait for its first answers."""
        async with asyncio.timeout(20):
            while len(self._notes) < 20:  # noqa: ASYNC110 (another process writes)
                await asyncio.sleep(0.005)

    async def median(self, after: float, until: float) -> float:
        """Of the asks that began between two moments, once they are all answered."""
        async with asyncio.timeout(10):
            while not self._notes or self._notes[-1][0] < until:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return statistics.median(took for began, took in self._notes if after <= began < until)

    async def quiet(self) -> float:
        """The median of a while in which nobody else does anything."""
        began = time.monotonic()
        await asyncio.sleep(SLICE_S)
        return await self.median(began, began + SLICE_S)

    async def attacked(self, one: World, case: Case) -> float:
        """The median of a while in which one bad message follows another."""
        began = time.monotonic()
        body = case.body.replace(b'[1, "ask"', b'[1, "tell"', 1)
        client = one.client
        while time.monotonic() < began + SLICE_S:
            subject = client.ask_subject(escape("the attacker's"))
            await client.request(subject, case.body, **case.headers)
            await asyncio.sleep(PACE_S)
            await client.tell("the attacker's", body, **case.headers)
            await asyncio.sleep(PACE_S)
        median = await self.median(began, began + SLICE_S)
        await client.settled()
        return median

    async def stop(self) -> None:
        assert self._process.returncode is None, "a neighbour got no reply"
        self._process.terminate()
        await self._process.wait()
        await self._reader


@in_one_loop
async def test_no_neighbour_is_slower_than_twice(one: World) -> None:
    neighbour = Neighbour(await program("tests.hostile.neighbour", one.server.url, NAMESPACE))
    ratios: dict[str, float] = {}
    await neighbour.begins()
    quiet = await neighbour.quiet()
    for case in CASES:
        for _ in range(TRIES):
            attacked = await neighbour.attacked(one, case)
            before, quiet = quiet, await neighbour.quiet()
            ratio = attacked / ((before + quiet) / 2)
            ratios[case.name] = min(ratio, ratios.get(case.name, ratio))
            if ratio <= SLOWER:
                break
    await neighbour.stop()
    worst = sorted(ratios.items(), key=lambda item: -item[1])[:8]
    print("\nslower by:", ", ".join(f"{name} {ratio:.2f}" for name, ratio in worst))
    print(f"all: median {statistics.median(ratios.values()):.2f}")
    assert {name: ratio for name, ratio in ratios.items() if ratio > SLOWER} == {}
    assert one.host.starts == 1
    assert one.host.actions(*TROUBLE) == []
