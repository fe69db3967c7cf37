"""The run: each environment's server and contenders, and rounds of slices at each point."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contenders import RAW, RAW_BATCHED, Contender, Slice, Variant, perdure, raw
from .orders import Load, Sizes
from .results import Row
from .scenarios import Environment, Kind, Point, points
from .servers import running
from .sizes import observe

COMMAND_BYTES = 2**28
"""Each command stream's size, which the server reserves: the default would not fit everywhere."""
MAILBOX = 100
"""The default capacity of a mailbox; more clients than that on one entity need a larger one."""
HEADROOM = 4
"""Mailbox places a client."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    environments: Sequence[Environment]
    kinds: tuple[Kind, ...] | None
    clients: tuple[int, ...]
    seconds: float
    rounds: int
    variants: tuple[Variant, ...]
    store: Path
    """The folder in which the servers' stores are made, and removed again."""

    def kinds_of(self, environment: Environment) -> tuple[Kind, ...]:
        """What to measure there."""
        return environment.kinds if self.kinds is None else self.kinds


@dataclass
class Found:
    """What a run has found so far."""

    rows: list[Row] = field(default_factory=list[Row])
    sizes: dict[str, Sizes] = field(default_factory=dict[str, Sizes])


async def measure(plan: Plan, found: Found, progress: Callable[[str], None]) -> None:
    """Measure all of a plan; what is known is in `found` at any time."""
    plan.store.mkdir(parents=True, exist_ok=True)
    for environment in plan.environments:
        folder = Path(tempfile.mkdtemp(prefix=f"{environment.name}-", dir=plan.store))
        try:
            await _measure_at(environment, folder, plan, found, progress)
        finally:
            shutil.rmtree(folder)


async def _measure_at(
    environment: Environment,
    folder: Path,
    plan: Plan,
    found: Found,
    progress: Callable[[str], None],
) -> None:
    progress(f"{environment.name}: starting")
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(running(environment, folder))
        settings: dict[str, Any] = {
            "replicas": environment.replicas,
            "command_stream_bytes": COMMAND_BYTES,
            "mailbox_capacity": max(MAILBOX, HEADROOM * max(plan.clients)),
        }
        contenders: list[Contender] = []
        for number, variant in enumerate(plan.variants):
            started = perdure(variant, f"perdure{number or ''}", servers, folder, settings)
            contenders.append(await stack.enter_async_context(started))
            await contenders[-1].warm()
        sizes = found.sizes[environment.name] = await observe(contenders[0], servers)
        for name in (RAW, RAW_BATCHED):
            started = raw(name, name.replace(" ", "_"), servers, folder, settings, sizes)
            contenders.append(await stack.enter_async_context(started))
            await contenders[-1].warm()
        await servers.lead()
        for point in points(plan.kinds_of(environment), plan.clients):
            progress(f"{environment.name}: {point.kind}, {point.clients} clients")
            found.rows += await _rounds(environment, point, contenders, plan)


async def _rounds(
    environment: Environment, point: Point, contenders: list[Contender], plan: Plan
) -> list[Row]:
    """Slices in turn. Each round begins with another contender, so that none is always first."""
    load = Load(point.way, point.clients, point.entities, plan.seconds)
    slices: dict[str, list[Slice]] = {contender.name: [] for contender in contenders}
    for number in range(plan.rounds):
        at = number % len(contenders)
        for contender in contenders[at:] + contenders[:at]:
            slices[contender.name].append(await contender.slice(load))
    return [
        Row(environment.name, point.kind, point.clients, name, done)
        for name, done in slices.items()
    ]
