"""What is no command, on every subject that a runner hears: refused or ignored, and cheaply so.

Commands have test_bad_messages.py. Here are the largest messages that a server takes, and the
worst to decode, as signals, questions, news of runners, control messages and values of flows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from .harness import TROUBLE, World, world
from .raw import Raw

pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGEST = 1_000_000
"""Bytes: nearly all that a server takes by default."""
GROWTH_KB = 128 * 1024
"""What the runner's process may take at most for any of them: its parser holds a message three
times, and an empty list is 50 times as large in memory as in JSON."""
TIMES = 3

BOMBS = {
    "nothing": b"",
    "zeros": b"\x00" * LARGEST,
    "lists in lists": b"[" * LARGEST,
    "lists in lists, closed": b"[" * 400_000 + b"]" * 400_000,
    "objects in objects": b'{"type":' * (LARGEST // 8),
    "many empty lists": b'{"type":[' + b"[]," * 300_000 + b"[]]}",
    "a huge tag": b'{"type":"' + b"x" * LARGEST + b'"}',
    "a huge name": b'{"type":"member","edition":1,"runner":"' + b"x" * LARGEST + b'"}',
    "a huge number": b'{"type":"member","runner":"a","edition":' + b"9" * LARGEST + b"}",
    "many types": b'{"type":"member","runner":"a","edition":1,"types":['
    + b'{"entity":"a","generation":1},' * 30_000
    + b'{"entity":"a","generation":1}]}',
    "many labels": b'{"type":"member","runner":"a","edition":1,"labels":['
    + b'"x",' * 200_000
    + b'"x"]}',
    "an envelope of lists": b'[1,"ask",' + b"[]," * 300_000 + b"[]]",
}
ENTRANCES = ("ask.victim.b", "info.victim", "signal.victim", "stats", "members", "resize.victim")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One runner for all of it."""
    async with world(tmp_path_factory.mktemp("entrances")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def raw(one: World) -> AsyncIterator[Raw]:
    """A socket; at the end the runner is the same, is well, and took little memory."""
    runner, before = await one.ready(), peak_kb(one)
    made = await Raw.open(one.server.url)
    yield made
    await made.close()
    async with asyncio.timeout(5):
        assert (await one.client.ask("a neighbour", {"type": "add", "n": 0}))["reply"] == 0
    assert await one.ready() == runner
    assert one.host.exits == []
    assert one.host.actions(*TROUBLE) == []
    assert peak_kb(one) - before < GROWTH_KB


def peak_kb(one: World) -> int:
    """The most memory that the runner's process ever had."""
    assert one.host.process is not None
    status = Path(f"/proc/{one.host.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


@pytest.mark.parametrize("entrance", [*ENTRANCES, "member"])
async def test_bombs_at_every_entrance(one: World, raw: Raw, entrance: str) -> None:
    runner = await one.ready()
    subject = f"hostile.{entrance}" + (f".{runner}" if entrance == "member" else "")
    for body in BOMBS.values():
        for _ in range(TIMES):
            await raw.publish(subject.encode(), body, reply=b"_INBOX.nobody.1")
    assert not raw.closed


DEEP: Any = json.loads("[" * 700 + "]" * 700)  # JSON's own encoder goes not much deeper
PAYLOAD_IGNORED = (["status"], ["flows"])
CONTROLS: dict[str, Any] = {
    "a version that is a bomb": [1, "state", {"version": DEEP}],
    "a huge version": [1, "state", {"version": 10**400}],
    "a state of everything": [1, "state", DEEP],
    "flows of a bomb": [1, "flows", DEEP],
    "flows of a huge list": [1, "flows", {"keys": ["k"] * 90_000}],
    "a status of a bomb": [1, "status", DEEP],
    "a result under a huge key": [1, "result", None, "k" * 400_000],
    "a huge trace": [1, "ask", {"type": "add", "n": 1}, "t1", *[None] * 7, "t" * 400_000],
    "a chain of thousands": [1, "tell", {"type": "add", "n": 1}, *[None] * 10, ["x"] * 90_000],
    "a resume with a huge token": {"type": "$resume", "token": "x" * 400_000, "value": 1},
    "a resume with a bomb": {"type": "$resume", "token": "x.y", "value": DEEP},
    "a cancel of a huge key": {"type": "$cancel", "key": "k" * 400_000},
}


@pytest.mark.parametrize("name", CONTROLS)
async def test_control_messages(one: World, raw: Raw, name: str) -> None:
    body = CONTROLS[name]
    answer = await one.client.request("hostile.ask.victim.c", body)
    if isinstance(body, list) and body[1:2] in PAYLOAD_IGNORED:
        assert "reply" in answer
    else:
        assert answer["error"]["type"] == "MalformedMessage", answer
    await raw.tell(b"hostile.to.victim.c", json.dumps(body).encode())
    await one.client.settled()
    assert (await one.client.ask("c", {"type": "total"}))["reply"] == 0
