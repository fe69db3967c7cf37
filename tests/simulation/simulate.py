"""One seed from its scenario to its verdict."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from unittest.mock import patch

from perdure.durable import activation

from .bounds import forgotten, leaving, leftovers
from .checker import violations
from .flowing import Flowing
from .loop import Deadlock, Endless
from .nemesis import Nemesis
from .ports import EPOCH_NS
from .saga import Outside
from .sagacheck import saga_violations
from .sagas import Sagas
from .scenario import Scenario
from .situations import count_evidence, listening
from .workload import Workload
from .world import World

QUIET_S = 60.0
"""How long a healed world may take until nothing waits any more, in virtual seconds."""


ANSWERED_S = 400.0
"""How long clients may take for the rest of their commands once all is calm, in virtual seconds:
each may wait out the longest timeout first."""
REST_S = 5.0
"""How long after that all is looked at that should be idle."""


@dataclass(slots=True)
class Verdict:
    """What came of one seed."""

    seed: int
    violations: list[str]
    situations: Counter[str]
    commands: int
    faults: int
    steps: int
    seconds: float  # virtual
    fingerprint: str  # of all that was stored and answered
    lines: list[str] = field(default_factory=list[str])  # the trace, if it was wanted


def simulate(seed: int, *, trace: bool = False, runners: int = 1, flows: bool = False) -> Verdict:
    """Run a seed, with at least so many runners, with flows or without. It gives the same verdict
    in every process."""
    collecting = gc.isenabled()
    gc.disable()  # when garbage is collected must not matter, so it isn't
    scenario = Scenario.draw(seed, runners=runners, flows=flows)
    sagas = Sagas()
    outside = Outside(Random(f"outside {seed}")) if flows else None
    world = World(scenario, trace=trace, outside=outside)
    flowing = None if outside is None else Flowing(world, sagas, outside)
    try:
        with (
            constants(scenario, flows=flows),
            listening(world.situations, world.evidence, world.say if trace else None),
        ):
            try:
                world.loop.run(_life(world, scenario, flowing))
            except (Deadlock, Endless) as error:
                world.evidence.uncaught.append(repr(error))
            world.collect()
        count_evidence(world.evidence, world.situations)
        found = violations(world.evidence, world.scenario.limits)
        if outside is not None:
            sagas.logs, sagas.waiting = world.saga_logs(), world.saga_tells()
            sagas.dead_copies = [data for _, data in world.evidence.dead_copies]
            sagas.effects = outside.effects
            sagas.sent_ms = {
                uid: (EPOCH_NS + round(at_s * 1e9)) // 1_000_000
                for uid, at_s in outside.sent_s.items()
            }
            found += saga_violations(sagas)
        return Verdict(
            seed,
            found,
            world.situations,
            len(world.evidence.calls),
            world.weather.faults,
            world.loop.steps,
            world.loop.time(),
            _fingerprint(world),
            world.lines,
        )
    finally:
        world.loop.close()
        if collecting:
            gc.enable()


@contextmanager
def constants(scenario: Scenario, *, flows: bool = False) -> Generator[None]:
    """Bounds of the real modules, as the scenario has them."""
    with ExitStack() as stack:
        for module, name, value in scenario.constants:
            if flows and name == "HELD":  # what an exclusive flow holds may starve nobody here
                continue
            stack.enter_context(patch.object(module, name, value))
        yield


async def _life(world: World, scenario: Scenario, flowing: Flowing | None) -> None:
    workload = Workload(world)
    nemesis = Nemesis(world, workload)
    for number in range(scenario.runners):
        world.at(number * 0.05, world.start_runner)
    await asyncio.sleep(0.01)
    workload.start()
    if flowing is not None:
        flowing.start()
    await nemesis.run()
    await nemesis.heal()
    if flowing is not None:
        await flowing.finish()
    await _answered(world, workload)
    await _quiet(world)
    if world.evidence.healed:  # who knows of the damage tries that log again only then
        await asyncio.sleep(activation.QUARANTINE_S)
    alive = [caller for caller in world.callers if caller.process.alive]
    for number, entity in enumerate(world.scenario.entities):
        caller = alive[number % len(alive)]
        await caller.process.spawn(workload.farewell(caller, entity))
    await _quiet(world)
    await asyncio.sleep(REST_S)
    await _saved(world)
    if flowing is not None:
        await flowing.settled(QUIET_S)
    world.evidence.unbounded += leftovers(world.alive, scenario)
    for caller in alive:
        world.evidence.unbounded += forgotten(caller)


async def _answered(world: World, workload: Workload) -> None:
    """Wait until the clients are done: in calm weather they soon are."""
    until = world.loop.time() + ANSWERED_S
    while workload.busy:
        if world.loop.time() > until:
            world.evidence.unanswered.append(f"clients still wait after {ANSWERED_S} s of calm")
            return
        await asyncio.sleep(1.0)


async def _quiet(world: World) -> None:
    """Wait until no tell waits any more: lost acks take an `ack_wait`."""
    end = world.loop.time() + QUIET_S
    while world.loop.time() < end and not world.quiet():  # noqa: ASYNC110 (virtual time)
        await asyncio.sleep(1.0)


async def _saved(world: World) -> None:
    """Wait until who left memory has stored a last snapshot: in calm weather that ends."""
    end = world.loop.time() + QUIET_S
    while world.loop.time() < end and any(map(leaving, world.alive)):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


def _fingerprint(world: World) -> str:
    digest = blake2b(digest_size=16)
    digest.update(f"{world.loop.steps} {world.loop.time()!r}".encode())
    for entity, messages in world.evidence.logs.items():
        digest.update(entity.encode())
        for message in messages:
            digest.update(message.data)
    for call in world.evidence.calls:
        digest.update(repr(call).encode())
    return digest.hexdigest()
