"""A command that ends its process: a dead letter after the marks, and its neighbours are served.

Restarted by a supervisor, as any runner is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import nats.errors

from .client import escape
from .harness import TROUBLE, World, world

ADD = {"type": "add", "n": 1}
TOTAL = {"type": "total"}
EXIT = {"type": "misbehave", "how": "exit"}
STATUS = 86
"""With which the process ends."""
MARKS = 3
NEIGHBOURS = 12


async def restarts_are_over(w: World) -> None:
    """Wait until the poison is a dead letter."""
    async with asyncio.timeout(60):
        while not await w.client.count("DEAD"):  # noqa: ASYNC110 (the server tells when asked)
            await asyncio.sleep(0.05)


async def total(w: World, id: str) -> int:
    """A query's answer, asked again while its owner is gone."""
    async with asyncio.timeout(60):
        while True:
            await w.ready()
            with contextlib.suppress(nats.errors.Error):  # no responders, or it died with it
                return int((await w.client.ask(id, TOTAL))["reply"])


async def test_a_command_that_kills_its_process_by_tell(tmp_path: Path) -> None:
    async with world(tmp_path, poison_marks=MARKS) as w:
        w.host.supervise()
        for n in range(NEIGHBOURS):
            await w.client.tell(f"n-{n}", ADD)
        await w.client.tell("bad", ADD)
        await w.client.tell("bad", EXIT, Idempotency_Key="poison")
        await w.client.tell("bad", ADD)
        for n in range(NEIGHBOURS):
            await w.client.tell(f"n-{n}", ADD)
        await restarts_are_over(w)
        (letter,) = await w.client.dead()
        assert letter["dead"]["reason"] == "poison"
        assert letter["name"] == "poison"
        error = letter["dead"]["error"]
        assert (error["type"], error["may_have_taken_effect"]) == ("RpcClientError", False)
        assert w.host.exits == [STATUS] * (MARKS + 1)
        for n in range(NEIGHBOURS):
            assert await total(w, f"n-{n}") == 2
        assert await total(w, "bad") == 2, "what came before and behind it took effect"
        assert await w.client.ask("bad", EXIT, Idempotency_Key="poison") == {
            "error": error,
            "seq": letter_seq(await w.client.log("bad")),
            "version": 1,
        }
        again = await w.client.tell("bad", EXIT, Idempotency_Key="poison")
        assert "seq" in again
        await w.client.settled()
        assert len(w.host.exits) == MARKS + 1, "the verdict is recorded: it never runs again"
        assert w.host.actions(*TROUBLE) == []


def letter_seq(log: list[Any]) -> int:
    """The log sequence of the commit that holds the dead letter."""
    (found,) = [message.seq for message in log if b'"dead"' in message.data]
    return int(found)


async def test_a_command_that_kills_its_process_by_ask(tmp_path: Path) -> None:
    """Nothing is stored: it dies with each process, and its caller counts."""
    async with world(tmp_path, poison_marks=MARKS) as w:
        w.host.supervise()
        for n in range(NEIGHBOURS):
            await w.client.tell(f"n-{n}", ADD, Idempotency_Key="k")
        for starts in (2, 3, 4):
            await w.ready()
            await w.client.nc.publish(
                w.client.ask_subject(escape("bad")),
                json.dumps(EXIT).encode(),
                reply=f"_INBOX.nobody.{starts}",
            )
            async with asyncio.timeout(30):
                while w.host.starts < starts:  # noqa: ASYNC110 (a counter)
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(30):  # the last process may just have begun to take tells
            for n in range(NEIGHBOURS):
                while await total(w, f"n-{n}") != 1:  # noqa: ASYNC110 (nobody tells)
                    await asyncio.sleep(0.01)
        assert await total(w, "bad") == 0
        assert w.host.exits == [STATUS] * 3
        assert await w.client.count("DEAD") == 0
