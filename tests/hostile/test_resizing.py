"""16 → 32 → 8 shards between loads, on a real server, with every key repeated after each resize.

The runner is a process of its own; one client stays connected all the while. Afterwards the log
tells: each command once, in the order in which the client sent them, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from perdure import Cluster, Ref, Settings, connect

from ..support.server import PATIENCE_S
from ..unit.deploy.commands import Ran, Shell
from .client import Plain
from .harness import NAMESPACE, World, world
from .victim import Add, Victim

IDS = [f"é-{n}" for n in range(40)]
ROUND = 6
"""Commands to each entity in one load, asks and tells by turns."""


class Load:
    """What one client sent: the keys of each entity in their order, and the outcome of each."""

    def __init__(self, client: Cluster) -> None:
        self._client = client
        self.keys: defaultdict[str, list[str]] = defaultdict(list)
        self.replies: dict[tuple[str, str], int] = {}

    async def go_on(self) -> None:
        """A load: of each entity one command after the other."""
        await self._all(self._more)

    async def repeat(self) -> None:
        """Every key again, by both ways: the outcome is the recorded one, if it is known."""
        await self._all(self._again)

    async def tell(self, id: str) -> None:
        """One more command that waits."""
        await self._next(id, ask=False)

    async def _more(self, id: str) -> None:
        for n in range(ROUND):
            await self._next(id, ask=n % 2 == 0)

    async def _next(self, id: str, *, ask: bool) -> None:
        n = len(self.keys[id])
        key = f"k-{n}"
        self.keys[id].append(key)
        if ask:
            self.replies[id, key] = await self._at(id).ask(Add(n), key=key)
        else:
            await self._at(id).tell(Add(n), key=key)

    async def _again(self, id: str) -> None:
        for n, key in list(enumerate(self.keys[id])):
            if n % 3 == 0:
                await self._at(id).tell(Add(n), key=key)
            reply = await self._at(id).ask(Add(n), key=key)
            assert self.replies.setdefault((id, key), reply) == reply, (id, key)

    def _at(self, id: str) -> Ref[Victim]:
        return self._client.at(Victim, id)

    async def _all(self, work: Callable[[str], Awaitable[None]]) -> None:
        await asyncio.gather(*(work(id) for id in IDS))


async def test_nothing_is_lost_doubled_or_reordered(tmp_path: Path) -> None:
    async with world(tmp_path, shards=16) as w:
        shell = Shell(tmp_path, PERDURE_URL=w.server.url, PERDURE_NAMESPACE=NAMESPACE)
        settings = Settings(url=w.server.url, namespace=NAMESPACE, ask_timeout=30)
        async with connect(settings=settings) as client:
            load = Load(client)
            await load.go_on()
            await resized(w, shell, load, 32, w.host.stop)
            await load.go_on()
            await load.repeat()
            await resized(w, shell, load, 8, w.host.kill)
            await load.go_on()
            await load.repeat()
            await w.client.settled()
            for id in IDS:
                assert await names(w.client, id) == load.keys[id]
                assert len({load.replies[id, key] for key in load.keys[id]}) == len(load.keys[id])
        assert await w.client.count("DEAD") == 0


async def resized(
    w: World, shell: Shell, load: Load, shards: int, leave: Callable[[], Awaitable[None]]
) -> None:
    """Refused while a runner is there, and while a tell waits; then done. Repeats go on across."""

    async def resize() -> Ran:
        return await asyncio.to_thread(
            shell.type, "shards", "resize", "victim", str(shards), "--json"
        )

    runner = await w.ready()
    ran = await resize()
    assert ran.code == 1
    assert ran.lines[0]["error"]["message"] == f"runner {runner} hosts victim; it stays as it is"
    await w.client.settled()
    await leave()
    await load.tell(IDS[0])
    await load.tell(IDS[1])
    ran = await resize()
    assert ran.code == 1
    assert "tells wait for victim (2), and only a runner" in ran.lines[0]["error"]["message"]
    await w.host.start()
    await w.ready()
    await w.client.settled()
    await leave()
    ran = await resize()
    assert (ran.code, ran.lines[0]["after"]["shards"]) == (0, shards)
    repeats = asyncio.create_task(load.repeat())  # to nobody, at first
    async with asyncio.timeout(PATIENCE_S):
        while not await w.client.count("CMD"):  # noqa: ASYNC110 (the server tells when it is asked)
            await asyncio.sleep(0.01)
    await w.host.start()
    await repeats


async def names(client: Plain, id: str) -> list[str]:
    """The names of all outcomes in an entity's log."""
    commits = [json.loads(message.data) for message in await client.log(id)]
    return [outcome["name"] for commit in commits for outcome in commit["outcomes"]]
