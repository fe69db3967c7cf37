"""Clients in a process of their own: `python -m tests.chaos.client SPEC`.

Each makes one call after another, of all kinds, and notes when it began, when it ended and what it
heard; the clock is CLOCK_MONOTONIC, which all processes of a machine share. A call that meets a
cluster error is tried again with the same key until it has its outcome, except where the client
gives up on purpose: so there are ops of unknown outcome. They work until standard input ends, then
finish what they have begun and write what they saw into a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from perdure import Cluster, ClusterError, Ref, Settings, connect, error_tag
from perdure.deploy.process import loop_factory

from .journal import Declined, Journal, Look, Receipt, Write
from .linear import Call, Seen, Way

PAUSE_S = 0.05
"""Between two tries of a call that met a cluster error."""
REPORT_S = 0.1
"""Between two reports of how it goes."""
PATIENCE_S = 90.0
"""How long a call is tried again, in all."""
LAST_S = 40.0
"""How long calls may still take when the clients are told to stop."""
REMEMBERED = 200
"""Ops that may be sent again: the newest ones of this process."""
HOT = 4
"""So many of the entities get half of the calls, so that they overlap."""


class Spec(Struct, frozen=True):
    """What these clients do."""

    name: str
    url: str
    namespace: str
    seed: int
    first_op: int
    step: int  # between two ops: so many processes make ops
    clients: int = 48
    rate: float = 150.0  # calls a second, of all together
    entities: int = 60
    give_up: float = 0.0  # how often a client doesn't wait for the outcome
    keyless: float = 0.1  # how often an op has no key, and isn't tried again
    connections: int = 2
    ask_timeout_s: float = 20.0
    file: str = ""


class Progress(Struct, frozen=True):
    """How it goes."""

    done: int = 0  # calls that had their outcome
    waiting: int = 0
    oldest_s: float = 0.0  # how long the oldest of those has waited
    errors: int = 0


class Crowd:
    """All clients of this process."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.calls: list[Call] = []
        self.known: deque[tuple[str, int, str | None]] = deque(maxlen=REMEMBERED)
        self.stopping = asyncio.Event()
        self.waiting: dict[str, int] = {}  # since when, by client
        self.done = self.errors = 0
        self._op = spec.first_op

    def op(self) -> int:
        """A new one."""
        self._op += self.spec.step
        return self._op

    def progress(self) -> Progress:
        now = time.monotonic_ns()
        oldest = min(self.waiting.values(), default=now)
        return Progress(self.done, len(self.waiting), (now - oldest) / 1e9, self.errors)

    async def report(self) -> None:
        while True:
            sys.stdout.buffer.write(msgspec.json.encode(self.progress()) + b"\n")
            sys.stdout.buffer.flush()
            await asyncio.sleep(REPORT_S)


class Client:
    """One of them."""

    def __init__(self, number: int, crowd: Crowd, cluster: Cluster) -> None:
        self.name = f"{crowd.spec.name}-{number}"
        self._crowd, self._cluster, self._spec = crowd, cluster, crowd.spec
        self._random = random.Random(f"{crowd.spec.seed}-{self.name}")

    async def run(self) -> None:
        """Call until told to stop."""
        stopping = self._crowd.stopping
        while not stopping.is_set():
            pause_s = self._random.expovariate(self._spec.rate / self._spec.clients)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), pause_s)
                return
            await self._once()

    async def _once(self) -> None:
        chance = self._random.random()
        if chance < 0.15:
            await self._look(fresh=True)
        elif chance < 0.25:
            await self._look(fresh=False)
        elif chance < 0.33 and self._crowd.known:
            await self._again()
        else:
            op = self._crowd.op()
            key = f"k-{op}" if self._random.random() >= self._spec.keyless else None
            await self._write(self._id(), "ask" if chance < 0.75 else "tell", op, key)

    def _id(self) -> str:
        hot = self._random.random() < 0.5
        return f"j-{self._random.randrange(HOT if hot else self._spec.entities)}"

    async def _again(self) -> None:
        """The same op once more, by either way, or the question what came of it."""
        id, op, key = self._random.choice(self._crowd.known)
        ways: list[Way] = ["ask", "tell", "result"]
        await self._write(id, self._random.choice(ways), op, key)

    async def _write(self, id: str, way: Way, op: int, key: str | None) -> None:
        ref = self._cluster.at(Journal, id)
        quick = way == "ask" and self._random.random() < self._spec.give_up
        timeout = 0.001 * 500 ** self._random.random() if quick else None

        async def call() -> Seen | None:
            if way == "tell":
                await ref.tell(Write(op), key=key)
                return None
            if way == "result":
                return _seen(await _outcome(ref, key or ""))
            return _seen(await ref.outcome(Write(op), key=key, timeout=timeout))

        ok = await self._until(call, id, way, op, key, once=quick or key is None)
        if ok and key is not None and way != "result":
            self._crowd.known.append((id, op, key))

    async def _look(self, *, fresh: bool) -> None:
        id = self._id()
        ref = self._cluster.at(Journal, id)

        async def call() -> Seen:
            return _seen(await ref.query(Look(), fresh=fresh))

        await self._until(call, id, "fresh" if fresh else "query", 0, None, once=False)

    async def _until(
        self,
        call: Callable[[], Awaitable[Seen | None]],
        id: str,
        way: Way,
        op: int,
        key: str | None,
        *,
        once: bool,
    ) -> bool:
        """Call until there is an outcome, and note each try. Whether there was one."""
        crowd, since = self._crowd, time.monotonic_ns()
        if not once:
            crowd.waiting[self.name] = since

        def note(begin: int, seen: Seen | None, error: BaseException | None) -> None:
            end = time.monotonic_ns()
            may = not isinstance(error, ClusterError) or error.may_have_taken_effect
            tag = error_tag(error) if isinstance(error, ClusterError) else repr(error)
            crowd.calls.append(
                Call(
                    *(self.name, id, way, begin, end),
                    "ok" if error is None else "unknown" if may else "none",
                    *(op, key, seen, since, "" if error is None else tag),
                )
            )

        try:
            while True:
                begin = time.monotonic_ns()
                try:
                    seen = await call()
                except ClusterError as error:
                    note(begin, None, error)
                    crowd.errors += not once
                    if once or time.monotonic_ns() - since > PATIENCE_S * 1e9:
                        return False
                    await asyncio.sleep(PAUSE_S)
                except asyncio.CancelledError as error:
                    note(begin, None, error)
                    raise
                else:
                    note(begin, seen, None)
                    crowd.done += 1
                    return True
        finally:
            crowd.waiting.pop(self.name, None)


async def looked(ref: Ref[Journal], query: Look) -> Call:
    """One fresh read, by a client of its own. Raises ClusterError."""
    begin, id = time.monotonic_ns(), ref.address.id
    seen = _seen(await ref.query(query, fresh=True))
    return Call("last", id, "fresh", begin, time.monotonic_ns(), "ok", seen=seen, since=begin)


async def _outcome(ref: Ref[Journal], key: str) -> Receipt | Declined:
    try:
        return await ref.result(Write, key)
    except Declined as failure:
        return failure


def _seen(outcome: Receipt | Declined) -> Seen:
    return Seen(outcome.n, outcome.digest, isinstance(outcome, Declined))


async def main(spec: Spec) -> list[Call]:
    """Work until standard input ends; what was seen."""
    crowd, loop = Crowd(spec), asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    settings = Settings(url=spec.url, namespace=spec.namespace, ask_timeout=spec.ask_timeout_s)
    async with AsyncExitStack() as stack:
        clusters: list[Any] = [
            await stack.enter_async_context(connect(settings=settings))
            for _ in range(spec.connections)
        ]
        reporting = asyncio.create_task(crowd.report())
        work = [
            asyncio.create_task(Client(n, crowd, clusters[n % spec.connections]).run())
            for n in range(spec.clients)
        ]
        await reader.read()
        crowd.stopping.set()
        _, late = await asyncio.wait(work, timeout=LAST_S)
        for task in (*late, reporting):
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in work:
            if not task.cancelled():
                task.result()
    return crowd.calls


if __name__ == "__main__":
    given = msgspec.json.decode(sys.argv[1], type=Spec)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        Path(given.file).write_bytes(msgspec.msgpack.encode(runner.run(main(given))))
