"""The run: each environment's server and contenders, and rounds of slices at each point."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cold import cold
from .contenders import Contender, Variant, perdure, raw, started
from .orders import Load, Sizes
from .profile import profile
from .results import RAW, RAW_BATCHED, Row, Slice
from .scenarios import CLIENTS, Environment, Kind, Point, points
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
    clients: tuple[int, ...] | None
    seconds: float
    rounds: int
    variants: tuple[Variant, ...]
    store: Path
    """The folder in which the servers' stores are made, and removed again."""
    profiles: Path | None
    """Where profiles of perdure go; None makes none."""
    profile_s: float
    """How long each profile takes."""


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
            "mailbox_capacity": max(MAILBOX, HEADROOM * max(plan.clients or CLIENTS)),
        }

        async def join(contender: Contender) -> Contender:
            await stack.enter_async_context(started(contender))
            await contender.warm()
            return contender

        ours = [
            await join(perdure(variant, f"perdure{number or ''}", servers, folder, settings))
            for number, variant in enumerate(plan.variants)
        ]
        sizes = found.sizes[environment.name] = await observe(ours[0], servers)
        raws = [
            await join(raw(name, servers, folder, settings, sizes)) for name in (RAW, RAW_BATCHED)
        ]
        await servers.lead()
        for point in points(environment, plan.kinds, plan.clients):
            progress(f"{environment.name}: {point.kind}, {point.clients} clients")
            if point.kind == "cold":
                for one in ours:
                    name, rounds = environment.name, plan.rounds
                    found.rows += await cold(name, one, raws[0], point.clients, rounds)
            else:
                beside = [one for one in raws if one.name in point.raws]
                found.rows += await _rounds(environment, point, [*ours, *beside], plan)
                await _profile(environment, point, ours[0], plan)


async def _rounds(
    environment: Environment, point: Point, contenders: list[Contender], plan: Plan
) -> list[Row]:
    """Slices in turn. Each round begins with another contender, so that none is always first."""
    load = load_of(point, plan)
    slices: dict[str, list[Slice]] = {contender.name: [] for contender in contenders}
    for number in range(plan.rounds):
        at = number % len(contenders)
        for contender in contenders[at:] + contenders[:at]:
            slices[contender.name].append(await contender.slice(load))
    return [
        Row(environment.name, point.kind, point.clients, name, done)
        for name, done in slices.items()
    ]


async def _profile(
    environment: Environment, point: Point, contender: Contender, plan: Plan
) -> None:
    """After what is measured, since a profiler takes processor time, too."""
    if plan.profiles is not None:
        name = f"{environment.name}-{point.kind}-{point.clients}"
        await profile(contender, load_of(point, plan), plan.profile_s, name, plan.profiles)


def load_of(point: Point, plan: Plan) -> Load:
    """One slice of a point."""
    return Load(point.way, point.clients, point.entities, plan.seconds)
