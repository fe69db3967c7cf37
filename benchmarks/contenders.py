"""Contenders: perdure and the raw client, each as two processes that carry the same load.

One after another carries a short slice of it, over and over, on the same server. So whatever else
the machine does in these minutes hits all of them, and the ratio of one round is worth more than
any figure alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from perdure.streams.subjects import Subjects

from .orders import Load, Perdure, Raw, Sample, Sizes, Way
from .process import Child, cpu_s
from .raw_link import api
from .results import RAW_BATCHED, Cpu, Slice
from .scenarios import ENTITIES
from .servers import Servers
from .waiting import until

ANSWER_S = 150.0
"""How long a caller may take beyond its slice; it gives up before by itself."""
WARM_CLIENTS = 64
SETTLE_S = 0.1
"""Between two slices, so that what one leaves behind isn't charged to the next."""

Start: TypeAlias = Callable[[], Coroutine[Any, Any, Child]]


@dataclass(frozen=True)
class Variant:
    """One way to run perdure: its settings, and maybe another checkout's code."""

    name: str
    settings: dict[str, Any]
    source: Path | None = None


class Contender:
    """A worker (perdure's runner, or the raw one) and its caller."""

    worker: Child
    caller: Child

    def __init__(
        self, name: str, namespace: str, servers: Servers, worker: Start, caller: Start
    ) -> None:
        """Made by `perdure` and `raw`, which start and stop it."""
        self.name = name
        self.namespace = namespace
        self._servers = servers
        self._start_worker, self._start_caller = worker, caller
        self._children: list[Child] = []

    async def start(self) -> None:
        """Start both processes."""
        self.worker = await self._start(self._start_worker)
        self.caller = await self._start(self._start_caller)

    async def restart(self) -> None:
        """Replace the worker by one that knows nothing yet, and wait until it answers."""
        await self.worker.stop()
        self._children.remove(self.worker)
        self.worker = await self._start(self._start_worker)
        await self.send(Load("ask", 1, 1))

    async def stop(self) -> None:
        """End both, the caller first."""
        while self._children:
            await self._children.pop().stop()

    async def warm(self) -> None:
        """One command to each entity, so that nothing is loaded while it is measured."""
        await self.send(Load("ask", WARM_CLIENTS, ENTITIES))

    async def send(self, load: Load) -> Sample:
        """Carry a load in which nothing may fail. Raises RuntimeError if something does."""
        sample = await self._run(load)
        if sample.errors:
            raise RuntimeError(f"{self.name}, unmeasured: {sample.errors}")
        return sample

    async def send_one(self, way: Way) -> None:
        """One command to the first entity."""
        await self.send(Load(way, 1, 1))

    async def slice(self, load: Load) -> Slice:
        """Carry a load and measure it."""
        await asyncio.sleep(SETTLE_S)
        before, began = self._cpu(), time.perf_counter()
        sample = await self._run(load)
        recorded = sample.rate
        if load.way == "tell":
            await until(self._drained, ANSWER_S, f"the end of {self.name}'s tells")
            recorded = sample.completed / (time.perf_counter() - began)
        after = self._cpu()
        return Slice(
            round(sample.rate, 1),
            round(recorded, 1),
            round(sample.p50_ms, 4),
            round(sample.p99_ms, 4),
            sample.completed,
            None if before is None or after is None else after - before,
            sum(sample.errors.values()),
        )

    async def _start(self, start: Start) -> Child:
        child = await start()
        self._children.append(child)
        return child

    def _cpu(self) -> Cpu | None:
        server = cpu_s(self._servers.pids)
        worker, caller = cpu_s([self.worker.pid]), cpu_s([self.caller.pid])
        if server is None or worker is None or caller is None:
            return None
        return Cpu(server, worker, caller)

    async def _run(self, load: Load) -> Sample:
        return await self.caller.order(load, Sample, load.seconds + ANSWER_S)

    async def _drained(self) -> bool:
        """Whether each stored tell was acknowledged, which its worker does when it is recorded."""
        stream = Subjects(self.namespace).command_stream("account")
        info = await api(self._servers.client, f"STREAM.INFO.{stream}")
        return bool(info["state"]["messages"] == 0)


@asynccontextmanager
async def started(contender: Contender) -> AsyncGenerator[Contender]:
    """A contender while it runs."""
    try:
        await contender.start()
        yield contender
    finally:
        await contender.stop()


def perdure(
    variant: Variant, namespace: str, servers: Servers, folder: Path, settings: dict[str, Any]
) -> Contender:
    """perdure, as its variant says, over common settings."""
    spec = Perdure(servers.url, namespace, {**settings, **variant.settings})
    start = partial(Child.start, spec=spec, folder=folder, source=variant.source)
    return Contender(
        variant.name, namespace, servers, partial(start, "host"), partial(start, "caller")
    )


def raw(
    name: str, servers: Servers, folder: Path, settings: dict[str, Any], sizes: Sizes
) -> Contender:
    """The raw client; batched if its name says so."""
    namespace = name.replace(" ", "-")
    spec = Raw(servers.url, namespace, name == RAW_BATCHED, settings, sizes)
    start = partial(Child.start, spec=spec, folder=folder, source=None)
    return Contender(
        name, namespace, servers, partial(start, "raw_worker"), partial(start, "raw_caller")
    )
