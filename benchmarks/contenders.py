"""Contenders: perdure and the raw client, each as two processes that carry the same load.

One after another carries a short slice of it, over and over, on the same server. So whatever else
the machine does in these minutes hits all of them, and the ratio of one round is worth more than
any figure alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from perdure.streams.subjects import Subjects

from .orders import Load, Perdure, Raw, Sample, Sizes, Way
from .process import Child, cpu_s
from .raw_link import api
from .scenarios import ENTITIES
from .servers import Servers
from .waiting import until

ANSWER_S = 150.0
"""How long a caller may take beyond its slice; it gives up before by itself."""
WARM_CLIENTS = 64
SETTLE_S = 0.1
"""Between two slices, so that what one leaves behind isn't charged to the next."""


class Slice(msgspec.Struct, frozen=True):
    """What one contender did in one slice."""

    rate: float
    """Commands a second as the caller saw them: answered, or for a tell stored."""
    recorded: float
    """Commands a second until the last one's outcome was recorded. Only a tell's differs."""
    p50_ms: float
    p99_ms: float
    cpu_ms: float | None
    """Processor time a command, over server, worker and caller; None if it isn't known."""
    errors: int


@dataclass(frozen=True)
class Variant:
    """One way to run perdure: its settings, and maybe another checkout's code."""

    name: str
    settings: dict[str, Any]
    source: Path | None = None


class Contender:
    """A worker (perdure's runner, or the raw one) and its caller."""

    def __init__(
        self, name: str, namespace: str, servers: Servers, worker: Child, caller: Child
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.worker = worker
        self.caller = caller
        self._servers = servers
        self._stream = Subjects(namespace).command_stream("account")

    async def warm(self) -> None:
        """One command to each entity, so that nothing is loaded while it is measured."""
        sample = await self._run(Load("ask", WARM_CLIENTS, ENTITIES))
        if sample.errors:
            raise RuntimeError(f"{self.name}: errors while warming up: {sample.errors}")

    async def send_one(self, way: Way) -> None:
        """One command to the first entity."""
        await self._run(Load(way, 1, 1))

    async def slice(self, load: Load) -> Slice:
        """Carry a load for its time."""
        pids = [*self._servers.pids, self.worker.pid, self.caller.pid]
        await asyncio.sleep(SETTLE_S)
        before, began = cpu_s(pids), time.perf_counter()
        sample = await self._run(load)
        recorded = sample.rate
        if load.way == "tell":
            await until(self._drained, ANSWER_S, f"the end of {self.name}'s tells")
            recorded = sample.completed / (time.perf_counter() - began)
        after = cpu_s(pids)
        cpu = None
        if before is not None and after is not None and sample.completed:
            cpu = 1000 * (after - before) / sample.completed
        errors = sum(sample.errors.values())
        return Slice(sample.rate, recorded, sample.p50_ms, sample.p99_ms, cpu, errors)

    async def _run(self, load: Load) -> Sample:
        return await self.caller.order(load, Sample, load.seconds + ANSWER_S)

    async def _drained(self) -> bool:
        """Whether each stored tell was acknowledged, which its worker does when it is recorded."""
        info = await api(self._servers.client, f"STREAM.INFO.{self._stream}")
        return bool(info["state"]["messages"] == 0)


@asynccontextmanager
async def perdure(
    variant: Variant, namespace: str, servers: Servers, folder: Path, settings: dict[str, Any]
) -> AsyncGenerator[Contender]:
    """perdure, as its variant says, over common settings."""
    spec = Perdure(servers.url, namespace, {**settings, **variant.settings})
    async with AsyncExitStack() as stack:
        worker = await _start(stack, "host", spec, folder, variant.source)
        caller = await _start(stack, "caller", spec, folder, variant.source)
        yield Contender(variant.name, namespace, servers, worker, caller)


@asynccontextmanager
async def raw(
    name: str,
    namespace: str,
    servers: Servers,
    folder: Path,
    settings: dict[str, Any],
    sizes: Sizes,
) -> AsyncGenerator[Contender]:
    """The raw client; batched if its name says so."""
    spec = Raw(servers.url, namespace, name == RAW_BATCHED, settings, sizes)
    async with AsyncExitStack() as stack:
        worker = await _start(stack, "raw_worker", spec, folder, None)
        caller = await _start(stack, "raw_caller", spec, folder, None)
        yield Contender(name, namespace, servers, worker, caller)


RAW, RAW_BATCHED = "raw", "raw batched"


async def _start(
    stack: AsyncExitStack, module: str, spec: object, folder: Path, source: Path | None
) -> Child:
    child = await Child.start(module, spec, folder, source)
    stack.push_async_callback(child.stop)
    return child
